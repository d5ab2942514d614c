//! What goes in and out over a connection, counted, so that who does not read is not read.

use crate::sync::lock;
use futures::task::AtomicWaker;
use palm_proto::zmtp::Refusal;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// How many messages of one connection may lie between the door and the serving loop. What is taken in before the first
/// answer is refused is no more than this, and what runs.
pub(super) const WINDOW: u64 = 64;

/// How many bytes of answers may wait for a connection before no more is read from it.
pub(super) const PAUSE: u64 = 4 * 1024 * 1024;

/// A connection that has taken nothing for so long, of all that waits for it, is the first to be cut off when there is too
/// much for all.
pub(super) const IDLE: Duration = Duration::from_secs(1);

/// What all connections together leave unread.
#[derive(Debug)]
pub(super) struct TotalBacklog {
    unread: AtomicU64,
    most: u64,
}

impl TotalBacklog {
    /// Nothing; and `most` bytes at most.
    pub(super) fn new(most: u64) -> Self {
        Self { unread: AtomicU64::new(0), most }
    }

    /// Whether it is too much: then no more is read from anybody.
    pub(super) fn is_too_much(&self) -> bool {
        self.would_be_too_much(self.unread.load(SeqCst))
    }

    /// Whether so much would be too much.
    pub(super) fn would_be_too_much(&self, unread: u64) -> bool {
        unread > self.most
    }

    /// So many bytes do not wait any more; says whether it was too much and is not now.
    pub(super) fn forget(&self, bytes: u64) -> bool {
        let less = |unread: u64| Some(unread.saturating_sub(bytes));
        let before = self.unread.fetch_update(SeqCst, SeqCst, less).unwrap_or_else(|before| before);
        self.would_be_too_much(before) && !self.would_be_too_much(before.saturating_sub(bytes))
    }
}

/// One connection's counters.
#[derive(Debug)]
pub(super) struct FlowControl {
    number: u64,
    together: Arc<TotalBacklog>,
    /// Long frames that were let in, each with the number of its message, until the serving loop has taken that.
    arriving: Mutex<VecDeque<(u64, u64)>>,
    /// When the other side last took something, or had taken all.
    moved: Mutex<Instant>,
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

impl FlowControl {
    /// The account with this number.
    pub(super) fn new(number: u64, together: Arc<TotalBacklog>) -> Self {
        Self {
            number,
            together,
            arriving: Mutex::default(),
            moved: Mutex::new(Instant::now()),
            passed: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            written: AtomicU64::new(0),
            sent_messages: AtomicU64::new(0),
            written_messages: AtomicU64::new(0),
            parting: AtomicBool::new(false),
            refusal: Mutex::default(),
            pong: Mutex::default(),
            inward: AtomicWaker::new(),
            outward: AtomicWaker::new(),
        }
    }

    /// How many messages may be passed in now. When none may, the task of `cx` is woken once one may.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<u64> {
        self.inward.register(cx.waker());
        match self.room() {
            0 => Poll::Pending,
            room => Poll::Ready(room),
        }
    }

    /// How many messages may be passed in now.
    pub(super) fn room(&self) -> u64 {
        if self.unread() >= PAUSE || self.together.is_too_much() {
            return 0;
        }
        WINDOW.saturating_sub(self.passed.load(SeqCst).saturating_sub(self.taken.load(SeqCst)))
    }

    /// So many messages have been passed in, ever.
    pub(super) fn passed(&self, messages: u64) {
        self.passed.store(messages, SeqCst);
    }

    /// So many bytes more have been accepted by the other side's system, and so many messages ever.
    pub(super) fn written(&self, bytes: u64, messages: u64) {
        *lock(&self.moved) = Instant::now();
        self.written.fetch_add(bytes, SeqCst);
        self.written_messages.store(messages, SeqCst);
        self.inward.wake();
    }

    /// The serving loop took one more message; says how many bytes of long frames came in with it.
    pub(super) fn taken(&self) -> u64 {
        let taken = self.taken.fetch_add(1, SeqCst) + 1;
        self.inward.wake();
        let mut arriving = lock(&self.arriving);
        let mut bytes = 0;
        while let Some((_, long)) = arriving.front().filter(|(message, _)| *message <= taken) {
            bytes += long;
            arriving.pop_front();
        }
        bytes
    }

    /// A long frame was let in, of the message that follows so many.
    pub(super) fn let_in(&self, bytes: u64, messages: u64) {
        lock(&self.arriving).push_back((messages + 1, bytes));
    }

    /// How many bytes of long frames the serving loop has not taken; from here on they do not count.
    pub(super) fn give_up(&self) -> u64 {
        lock(&self.arriving).drain(..).map(|(_, bytes)| bytes).sum()
    }

    /// The serving loop sent so many bytes.
    pub(super) fn sent(&self, bytes: u64) {
        if self.unread() == 0 {
            *lock(&self.moved) = Instant::now();
        }
        self.together.unread.fetch_add(bytes, SeqCst);
        self.sent.fetch_add(bytes, SeqCst);
        self.sent_messages.fetch_add(1, SeqCst);
    }

    /// There may be room again.
    pub(super) fn look_again(&self) {
        self.inward.wake();
    }

    /// The number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether the other side has taken nothing for a while, though something waits.
    pub(super) fn is_idle(&self) -> bool {
        self.unread() > 0 && lock(&self.moved).elapsed() >= IDLE
    }

    /// How many bytes wait for the other side.
    pub(super) fn unread(&self) -> u64 {
        self.sent.load(SeqCst).saturating_sub(self.written.load(SeqCst))
    }

    /// How many messages wait for the other side.
    pub(super) fn unread_messages(&self) -> u64 {
        self.sent_messages.load(SeqCst).saturating_sub(self.written_messages.load(SeqCst))
    }

    /// Ends the connection, because of this if of anything. The first reason counts.
    pub(super) fn part(&self, refusal: Option<Refusal>) {
        if !self.parting.swap(true, SeqCst) {
            *lock(&self.refusal) = refusal;
        }
        self.inward.wake();
        self.outward.wake();
    }

    /// Whether the connection is to end.
    pub(super) fn is_parting(&self) -> bool {
        self.parting.load(SeqCst)
    }

    /// Why the connection was ended, if we did it.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        *lock(&self.refusal)
    }

    /// Has a PONG sent between two messages; of several that wait, the last.
    pub(super) fn pong(&self, frame: Vec<u8>) {
        lock(&self.pong).replace(frame);
        self.outward.wake();
    }

    /// The PONG that waits.
    pub(super) fn take_pong(&self) -> Option<Vec<u8>> {
        lock(&self.pong).take()
    }

    /// Whether a PONG waits.
    pub(super) fn has_pong(&self) -> bool {
        lock(&self.pong).is_some()
    }

    /// Has the outward task woken when there is something new for it.
    pub(super) fn register_outward(&self, cx: &Context<'_>) {
        self.outward.register(cx.waker());
    }
}
