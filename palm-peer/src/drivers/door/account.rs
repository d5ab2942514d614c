//! What goes in and out over each connection, counted, so that who does not read is not read.

use crate::{decisions::zmtp::Refusal, drivers::lock::lock, ports::zmq::Connection};
use futures::task::AtomicWaker;
use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

/// How many messages of one connection may lie between the door and the serving loop. What is taken in before the first
/// answer is refused is no more than this, and what runs.
const WINDOW: u64 = 64;

/// How many messages may wait for a connection: half of what `ZeroMQ` has room for, beyond which it waits with a lock in hand.
const MOST_MESSAGES: u64 = 50_000;

/// How many bytes of answers may wait for a connection before no more is read from it.
const PAUSE: u64 = 4 * 1024 * 1024;

/// One connection's counters.
#[derive(Debug, Default)]
pub struct Account {
    /// Messages that the door passed in, and those that the serving loop has taken.
    passed: AtomicU64,
    taken: AtomicU64,
    /// Bytes that the serving loop sent, and those that the other side's system accepted.
    sent: AtomicU64,
    written: AtomicU64,
    /// The same in messages.
    sent_messages: AtomicU64,
    written_messages: AtomicU64,
    parting: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
    pong: Mutex<Option<Vec<u8>>>,
    inward: AtomicWaker,
    outward: AtomicWaker,
}

impl Account {
    /// How many messages may be passed in now. When none may, the task of `cx` is woken once one may.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<u64> {
        self.inward.register(cx.waker());
        match self.room() {
            0 => Poll::Pending,
            room => Poll::Ready(room),
        }
    }

    /// How many messages may be passed in now.
    pub fn room(&self) -> u64 {
        if self.unread() >= PAUSE {
            return 0;
        }
        WINDOW.saturating_sub(self.passed.load(SeqCst).saturating_sub(self.taken.load(SeqCst)))
    }

    /// So many messages have been passed in, ever.
    pub fn passed(&self, messages: u64) {
        self.passed.store(messages, SeqCst);
    }

    /// So many bytes more have been accepted by the other side's system, and so many messages ever.
    fn written(&self, bytes: u64, messages: u64) {
        self.written.fetch_add(bytes, SeqCst);
        self.written_messages.store(messages, SeqCst);
        self.inward.wake();
    }

    /// How many bytes wait for the other side.
    fn unread(&self) -> u64 {
        self.sent.load(SeqCst).saturating_sub(self.written.load(SeqCst))
    }

    /// How many messages wait for the other side.
    fn unread_messages(&self) -> u64 {
        self.sent_messages.load(SeqCst).saturating_sub(self.written_messages.load(SeqCst))
    }

    /// Ends the connection, because of this if of anything. The first reason counts.
    pub fn part(&self, refusal: Option<Refusal>) {
        if !self.parting.swap(true, SeqCst) {
            *lock(&self.refusal) = refusal;
        }
        self.inward.wake();
        self.outward.wake();
    }

    /// Whether the connection is to end.
    pub fn is_parting(&self) -> bool {
        self.parting.load(SeqCst)
    }

    /// Why the connection was ended, if we did it.
    pub fn refusal(&self) -> Option<Refusal> {
        *lock(&self.refusal)
    }

    /// Has a PONG sent between two messages; of several that wait, the last.
    pub fn pong(&self, frame: Vec<u8>) {
        lock(&self.pong).replace(frame);
        self.outward.wake();
    }

    /// The PONG that waits.
    pub fn take_pong(&self) -> Option<Vec<u8>> {
        lock(&self.pong).take()
    }

    /// Whether a PONG waits.
    pub fn has_pong(&self) -> bool {
        lock(&self.pong).is_some()
    }

    /// Has the outward task woken when there is something new for it.
    pub fn register_outward(&self, cx: &Context<'_>) {
        self.outward.register(cx.waker());
    }
}

/// The accounts of all connections that were let in.
#[derive(Debug)]
pub struct Ledger {
    accounts: Mutex<HashMap<Connection, Arc<Account>>>,
    settled: AtomicWaker,
    most_unread: u64,
}

impl Ledger {
    /// Without connections; of which each may have `most_unread` bytes wait for it.
    pub fn new(most_unread: u64) -> Self {
        Self { accounts: Mutex::default(), settled: AtomicWaker::new(), most_unread }
    }

    /// Opens the account of a connection.
    pub fn open(&self, connection: Connection) -> Arc<Account> {
        let account = Arc::new(Account::default());
        lock(&self.accounts).insert(connection, Arc::clone(&account));
        account
    }

    /// Closes it.
    pub fn close(&self, connection: &Connection) {
        lock(&self.accounts).remove(connection);
        self.settled.wake();
    }

    /// The serving loop took a message in.
    pub fn taken(&self, connection: &Connection) {
        if let Some(account) = lock(&self.accounts).get(connection) {
            account.taken.fetch_add(1, SeqCst);
            account.inward.wake();
        }
    }

    /// The serving loop is about to send so many bytes; says whether it may.
    pub fn send(&self, connection: &Connection, bytes: u64) -> bool {
        let accounts = lock(&self.accounts);
        let Some(account) = accounts.get(connection) else { return false };
        if account.unread() >= self.most_unread || account.unread_messages() >= MOST_MESSAGES {
            account.part(Some(Refusal::Unread));
        }
        if account.is_parting() {
            return false;
        }
        account.sent.fetch_add(bytes, SeqCst);
        account.sent_messages.fetch_add(1, SeqCst);
        true
    }

    /// So many bytes more of this account have been accepted by the other side's system, and so many messages ever.
    pub fn written(&self, account: &Account, bytes: u64, messages: u64) {
        account.written(bytes, messages);
        self.settled.wake();
    }

    /// Waits until every connection has ended. For one task at a time, and not beside [`settled`](Self::settled).
    pub async fn emptied(&self) {
        poll_fn(|cx| {
            self.settled.register(cx.waker());
            if lock(&self.accounts).is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Waits until everything that was sent is written. For one task at a time.
    pub async fn settled(&self) {
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
    use futures::{FutureExt as _, executor::block_on};

    fn connection() -> Connection {
        Connection::from_static(b"one")
    }

    #[test]
    fn a_connection_that_takes_no_answers_has_no_room_and_is_cut_off_at_the_limit() {
        let ledger = Ledger::new(2 * PAUSE);
        let account = ledger.open(connection());
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
    fn a_connection_that_takes_no_small_answers_either_is_cut_off_before_the_queue_is_full() {
        let ledger = Ledger::new(u64::MAX);
        let account = ledger.open(connection());
        assert!((0..MOST_MESSAGES).all(|_| ledger.send(&connection(), 1)));
        assert!(!ledger.send(&connection(), 1));
        assert_eq!(account.refusal(), Some(Refusal::Unread));
    }

    #[test]
    fn room_comes_back_as_messages_are_taken() {
        let ledger = Ledger::new(PAUSE);
        let account = ledger.open(connection());
        account.passed(WINDOW);
        assert_eq!(account.room(), 0);
        ledger.taken(&connection());
        assert_eq!(account.room(), 1);
    }

    #[test]
    fn all_is_settled_when_all_is_written_or_the_connection_is_gone() {
        let ledger = Ledger::new(PAUSE);
        let account = ledger.open(connection());
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
}
