//! The accounts of all connections, and what all of them together may hold.

use super::{
    flow_control::{FlowControl, TotalBacklog},
    frame_permits::FramePermits,
};
use crate::{io::zmq::Connection, sync::lock};
use futures::task::AtomicWaker;
use palm_proto::zmtp::Refusal;
use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

/// How many messages may wait for a connection: half of what `ZeroMQ` has room for, beyond which it waits with a lock in hand.
const MAX_MESSAGES: u64 = 50_000;

/// The accounts of all connections that were let in.
#[derive(Debug)]
pub(super) struct ConnectionTable {
    accounts: Mutex<HashMap<Connection, Arc<FlowControl>>>,
    settled: AtomicWaker,
    most_unread: u64,
    arrivals: FramePermits,
    together: Arc<TotalBacklog>,
}

impl ConnectionTable {
    /// Without connections; of which each may have `most_unread` bytes wait for it, and all together `most_held`, as well as
    /// that many on their way in.
    pub(super) fn new(most_unread: u64, most_held: u64) -> Self {
        Self {
            accounts: Mutex::default(),
            settled: AtomicWaker::new(),
            most_unread,
            arrivals: FramePermits::new(most_held),
            together: Arc::new(TotalBacklog::new(most_held)),
        }
    }

    /// Opens the account of a connection, of which no other has the number.
    pub(super) fn open(&self, connection: Connection, number: u64) -> Arc<FlowControl> {
        let account = Arc::new(FlowControl::new(number, Arc::clone(&self.together)));
        lock(&self.accounts).insert(connection, Arc::clone(&account));
        account
    }

    /// Closes it.
    pub(super) fn close(&self, connection: &Connection) {
        let closed = lock(&self.accounts).remove(connection);
        if let Some(account) = closed {
            self.forget(account.unread());
            self.arrivals.leave(account.number());
            self.arrivals.give_back(account.give_up());
        }
        self.settled.wake();
    }

    /// Waits for the turn of a long frame, of the message that follows those passed. Once it is let in, it counts until the
    /// serving loop has taken its message.
    pub(super) fn poll_turn(&self, account: &FlowControl, bytes: u64, messages: u64, cx: &Context<'_>) -> Poll<()> {
        ready!(self.arrivals.poll(account.number(), bytes, cx));
        account.let_in(bytes, messages);
        Poll::Ready(())
    }

    /// Whether others wait for their turn.
    pub(super) fn are_turns_awaited(&self) -> bool {
        self.arrivals.are_awaited()
    }

    /// The serving loop took a message in.
    pub(super) fn taken(&self, connection: &Connection) {
        let taken = lock(&self.accounts).get(connection).map_or(0, |account| account.taken());
        if taken > 0 {
            self.arrivals.give_back(taken);
        }
    }

    /// The serving loop is about to send so many bytes; says whether it may.
    pub(super) fn send(&self, connection: &Connection, bytes: u64) -> bool {
        let accounts = lock(&self.accounts);
        let Some(account) = accounts.get(connection) else { return false };
        if account.unread() >= self.most_unread || account.unread_messages() >= MAX_MESSAGES {
            account.part(Some(Refusal::Unread));
        }
        if account.is_parting() {
            return false;
        }
        account.sent(bytes);
        if self.together.is_too_much() {
            self.cut_off(&accounts);
        }
        !account.is_parting()
    }

    /// Cuts off connections until the others do not leave too much unread: of those that take nothing, who leaves most; then
    /// of all. What waited for them goes in a moment, and until then no more is read from anybody.
    fn cut_off(&self, accounts: &HashMap<Connection, Arc<FlowControl>>) {
        let mut open: Vec<_> = accounts.values().filter(|account| !account.is_parting()).collect();
        // The counts go on changing meanwhile.
        open.sort_by_cached_key(|account| (account.is_idle(), account.unread()));
        let mut unread: u64 = open.iter().map(|account| account.unread()).sum();
        while self.together.would_be_too_much(unread)
            && let Some(worst) = open.pop()
        {
            unread = unread.saturating_sub(worst.unread());
            worst.part(Some(Refusal::Unread));
        }
    }

    /// So many bytes more of this account have been accepted by the other side's system, and so many messages ever.
    pub(super) fn written(&self, account: &FlowControl, bytes: u64, messages: u64) {
        self.forget(bytes);
        account.written(bytes, messages);
        self.settled.wake();
    }

    fn forget(&self, bytes: u64) {
        if self.together.forget(bytes) {
            lock(&self.accounts).values().for_each(|account| account.look_again());
        }
    }

    /// Waits until every connection has ended. For one task at a time, and not beside [`settled`](Self::settled).
    pub(super) async fn emptied(&self) {
        poll_fn(|cx| {
            self.settled.register(cx.waker());
            if lock(&self.accounts).is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Waits until everything that was sent is written. For one task at a time.
    pub(super) async fn settled(&self) {
        poll_fn(|cx| {
            self.settled.register(cx.waker());
            let open = lock(&self.accounts).values().any(|account| account.unread() > 0 && !account.is_parting());
            if open { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::flow_control::{IDLE, PAUSE, WINDOW};
    use futures::{FutureExt as _, executor::block_on};

    fn connection() -> Connection {
        Connection::from_static(b"one")
    }

    #[test]
    fn a_connection_that_reads_nothing_is_cut_off_at_the_limit() {
        let ledger = ConnectionTable::new(2 * PAUSE, u64::MAX);
        let account = ledger.open(connection(), 1);
        assert_eq!(account.room(), WINDOW);
        assert!(ledger.send(&connection(), PAUSE));
        assert_eq!(account.room(), 0);
        ledger.written(&account, 1, 0);
        assert_eq!(account.room(), WINDOW);
        assert!(ledger.send(&connection(), PAUSE + 1));
        assert_eq!(account.refusal(), None);
        assert!(!ledger.send(&connection(), 1));
        assert_eq!(account.refusal(), Some(Refusal::Unread));
    }

    #[test]
    fn unread_small_answers_cut_off_before_the_queue_is_full() {
        let ledger = ConnectionTable::new(u64::MAX, u64::MAX);
        let account = ledger.open(connection(), 1);
        assert!((0..MAX_MESSAGES).all(|_| ledger.send(&connection(), 1)));
        assert!(!ledger.send(&connection(), 1));
        assert_eq!(account.refusal(), Some(Refusal::Unread));
    }

    #[test]
    fn taken_messages_free_their_room() {
        let ledger = ConnectionTable::new(PAUSE, u64::MAX);
        let account = ledger.open(connection(), 1);
        account.passed(WINDOW);
        assert_eq!(account.room(), 0);
        ledger.taken(&connection());
        assert_eq!(account.room(), 1);
    }

    #[test]
    fn settled_means_all_is_written_or_the_connection_gone() {
        let ledger = ConnectionTable::new(PAUSE, u64::MAX);
        let account = ledger.open(connection(), 1);
        block_on(ledger.settled());
        ledger.send(&connection(), 10);
        ledger.written(&account, 9, 0);
        assert!(ledger.settled().now_or_never().is_none());
        ledger.written(&account, 1, 1);
        block_on(ledger.settled());
        ledger.send(&connection(), 10);
        assert!(ledger.emptied().now_or_never().is_none());
        ledger.close(&connection());
        block_on(ledger.settled());
        block_on(ledger.emptied());
        assert!(!ledger.send(&connection(), 10));
    }

    fn named(name: &'static [u8]) -> Connection {
        Connection::from_static(name)
    }

    #[test]
    fn a_full_total_backlog_cuts_off_the_most_stalled_client() {
        let ledger = ConnectionTable::new(u64::MAX, 100);
        let [idle, busy] = [(b"idle", 1), (b"busy", 2)].map(|(name, number)| ledger.open(named(name), number));
        assert!(ledger.send(&named(b"idle"), 30));
        std::thread::sleep(IDLE);
        assert!(ledger.send(&named(b"busy"), 60));
        ledger.written(&busy, 1, 0);
        assert!(!idle.is_parting() && !busy.is_parting());
        assert!(ledger.send(&named(b"busy"), 12));
        assert_eq!((idle.refusal(), busy.refusal()), (Some(Refusal::Unread), None));
        assert_eq!(busy.room(), 0, "what waited for one that was cut off is still there");
        ledger.close(&named(b"idle"));
        assert_eq!(busy.room(), WINDOW);
        assert!(ledger.send(&named(b"busy"), 20));
        assert!(!ledger.send(&named(b"busy"), 10), "there is no other");
        assert_eq!(busy.refusal(), Some(Refusal::Unread));
    }

    #[test]
    fn long_frames_hold_room_until_they_are_taken_or_dropped() {
        let ledger = ConnectionTable::new(u64::MAX, 100);
        let [one, two, three] =
            [(b"1", 1), (b"2", 2), (b"3", 3)].map(|(name, number)| ledger.open(named(name), number));
        let cx = &Context::from_waker(futures::task::noop_waker_ref());
        assert!(ledger.poll_turn(&one, 60, 1, cx).is_ready());
        assert!(ledger.poll_turn(&two, 60, 0, cx).is_pending() && ledger.are_turns_awaited());
        ledger.taken(&named(b"1"));
        assert!(ledger.poll_turn(&two, 60, 0, cx).is_pending(), "its message was the second");
        ledger.taken(&named(b"1"));
        assert!(ledger.poll_turn(&two, 60, 0, cx).is_ready());
        assert!(ledger.poll_turn(&three, 60, 0, cx).is_pending());
        ledger.close(&named(b"2"));
        assert!(ledger.poll_turn(&three, 60, 0, cx).is_ready() && !ledger.are_turns_awaited());
    }

    #[test]
    fn a_hundred_thousand_connections_leave_no_state() {
        let ledger = ConnectionTable::new(u64::MAX, 100);
        let cx = &Context::from_waker(futures::task::noop_waker_ref());
        let mut late = None;
        for number in 0..100_000_u64 {
            let connection = Connection::from(number.to_string());
            let account = ledger.open(connection.clone(), number);
            // It ends with answers unread, and with a long frame that has come in, or waits for its turn.
            assert!(ledger.send(&connection, 50));
            assert!(ledger.poll_turn(&account, 60, 1, cx).is_ready() || number % 2 == 1);
            if number % 2 == 0 {
                late = Some(connection);
                continue;
            }
            ledger.close(&connection);
            ledger.close(&late.take().expect("the one before"));
            assert!(!ledger.are_turns_awaited() && ledger.arrivals.is_empty() && lock(&ledger.accounts).is_empty());
            assert!(!ledger.together.is_too_much() && !ledger.together.forget(u64::MAX));
        }
    }
}
