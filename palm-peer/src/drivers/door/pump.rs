//! Carries the bytes of one connection, in both directions, and sees that they are what they may be.
//!
//! Nothing is collected: what was read is scanned and written on from a buffer that all connections of a thread share. Only
//! what the other side does not accept at once is kept, and then no more is read.

use super::{account::Ledger, entry::Guest};
use crate::{
    decisions::zmtp::{
        Refusal,
        frames::{Limits, Scanner, Step},
    },
    ports::{
        handshake::Unopened,
        timer::{self, Sleep},
    },
};
use futures::{AsyncRead, AsyncWrite};
use std::{
    cell::Cell,
    future::Future as _,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

/// How long a connection may accept nothing of what waits for it, or stop in the middle of a message.
const STALL: Duration = Duration::from_secs(30);

/// How much is read at once: little where messages are short, so that little has to wait when no more may be passed.
const SHORT_READ: usize = 16 * 1024;
const LONG_READ: usize = 256 * 1024;

/// The longest piece of a header or command that waits for its rest.
const LONGEST_PIECE: usize = 64;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// One side closed it, or it broke.
    Closed,
    /// We ended it.
    Refused(Refusal),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Unopened> for End {
    fn from(unopened: Unopened) -> Self {
        match unopened {
            Unopened::Refused(refusal) => Self::Refused(refusal),
            Unopened::Broken(_) => Self::Closed,
        }
    }
}

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends the thread's buffer.
fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut scratch = SCRATCH.take();
    scratch.resize(LONG_READ + SHORT_READ, 0);
    let result = work(&mut scratch);
    SCRATCH.set(scratch);
    result
}

/// Reads behind what is `kept`, as much as the rest of a frame asks for, and has all of it looked at.
fn poll_read_behind(
    cx: &mut Context<'_>,
    mut from: impl AsyncRead + Unpin,
    kept: &[u8],
    left: u64,
    look: impl FnOnce(&mut Context<'_>, &[u8]) -> Result<(), End>,
) -> Poll<Result<(), End>> {
    let ahead = kept.len();
    let wanted = usize::try_from(left).unwrap_or(LONG_READ).clamp(SHORT_READ, LONG_READ);
    with_scratch(|scratch| {
        scratch[..ahead].copy_from_slice(kept);
        let count = ready!(Pin::new(&mut from).poll_read(cx, &mut scratch[ahead..ahead + wanted]))?;
        if count == 0 {
            return Poll::Ready(Err(End::Closed));
        }
        Poll::Ready(look(cx, &scratch[..ahead + count]))
    })
}

/// What the other side has not accepted yet.
#[derive(Debug, Default)]
struct Rest {
    bytes: Vec<u8>,
    at: usize,
    /// How many bytes were accepted so far.
    accepted: u64,
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Writes `data`, and keeps what is not accepted at once.
    fn write(&mut self, cx: &mut Context<'_>, mut to: impl AsyncWrite + Unpin, mut data: &[u8]) -> io::Result<()> {
        while self.is_empty() && !data.is_empty() {
            match Pin::new(&mut to).poll_write(cx, data) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    self.accepted += count as u64;
                    data = &data[count..];
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// Writes what is kept.
    fn poll_flush(&mut self, cx: &mut Context<'_>, mut to: impl AsyncWrite + Unpin) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let count = ready!(Pin::new(&mut to).poll_write(cx, &self.bytes[self.at..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.accepted += count as u64;
            self.at += count;
        }
        if !self.bytes.is_empty() {
            *self = Self { accepted: self.accepted, ..Self::default() };
        }
        // Over TLS, what was accepted may wait to be sent.
        Pin::new(&mut to).poll_flush(cx)
    }
}

/// Ends when something has not happened for too long.
#[derive(Debug, Default)]
struct Patience {
    sleep: Option<Sleep>,
}

impl Patience {
    /// Something happened.
    fn renew(&mut self) {
        self.sleep = None;
    }

    /// Still nothing: ready once that has been so for `time`.
    fn poll(&mut self, cx: &mut Context<'_>, time: Duration) -> Poll<()> {
        Pin::new(self.sleep.get_or_insert_with(|| timer::sleep(time))).poll(cx)
    }
}

/// The direction from the stranger to the server.
#[derive(Debug)]
pub struct Inward {
    guest: Arc<Guest>,
    scanner: Scanner,
    /// What was read and not scanned.
    kept: Vec<u8>,
    /// Whether that cannot be scanned before more has come.
    starved: bool,
    rest: Rest,
    /// How long the other side means to be silent at most.
    silence: Option<Duration>,
    patience: Patience,
}

impl Inward {
    /// Begins behind the handshake, of which `kept` is what was read beyond it.
    pub fn new(guest: Arc<Guest>, limits: Limits, kept: Vec<u8>) -> Self {
        Self {
            guest,
            scanner: Scanner::new(limits),
            kept,
            starved: false,
            rest: Rest::default(),
            silence: None,
            patience: Patience::default(),
        }
    }

    /// Carries on until the connection ends.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match ready!(self.poll_end(cx)) {
            Ok(never) => match never {},
            Err(end) => Poll::Ready(end),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<std::convert::Infallible, End>> {
        let guest = Arc::clone(&self.guest);
        loop {
            ready!(self.rest.poll_flush(cx, &guest.inner))?;
            let room = guest.account.poll_room(cx);
            if guest.account.is_parting() {
                return Poll::Ready(Err(End::Closed));
            }
            if room.is_pending() {
                self.patience.renew();
                return Poll::Pending;
            }
            if self.starved || self.kept.is_empty() {
                ready!(self.poll_read(cx, &guest))?;
            } else {
                let kept = std::mem::take(&mut self.kept);
                self.scan(cx, &guest, &kept)?;
            }
        }
    }

    /// Reads, behind what is kept, and scans both.
    fn poll_read(&mut self, cx: &mut Context<'_>, guest: &Guest) -> Poll<Result<(), End>> {
        let kept = std::mem::take(&mut self.kept);
        let read = poll_read_behind(cx, &guest.outside, &kept, self.scanner.left(), |cx, bytes| {
            self.patience.renew();
            self.scan(cx, guest, bytes)
        });
        if read.is_pending() {
            self.kept = kept;
            let patience = if self.scanner.within_message() { Some(STALL) } else { self.silence };
            if let Some(time) = patience {
                ready!(self.patience.poll(cx, time));
                return Poll::Ready(Err(Refusal::Stalled.into()));
            }
        }
        read
    }

    /// Passes on what may be passed on of `bytes`, and keeps the rest.
    fn scan(&mut self, cx: &mut Context<'_>, guest: &Guest, mut bytes: &[u8]) -> Result<(), End> {
        self.starved = false;
        while !bytes.is_empty() {
            let room = guest.account.room();
            if room == 0 {
                break;
            }
            let done = match self.scanner.step(bytes, room)? {
                Step::Pass(count) => {
                    // Counted first, so that it cannot be taken before it was passed.
                    guest.account.passed(self.scanner.messages());
                    self.rest.write(cx, &guest.inner, &bytes[..count])?;
                    count
                }
                Step::Ping(count, ping) => {
                    self.silence = (!ping.silence.is_zero()).then_some(ping.silence);
                    guest.account.pong(ping.pong);
                    count
                }
                Step::Incomplete => {
                    self.starved = true;
                    break;
                }
            };
            bytes = &bytes[done..];
        }
        debug_assert!(!self.starved || bytes.len() <= LONGEST_PIECE);
        self.kept = bytes.to_vec();
        Ok(())
    }
}

/// The direction from the server to the stranger.
#[derive(Debug)]
pub struct Outward {
    guest: Arc<Guest>,
    ledger: Arc<Ledger>,
    scanner: Scanner,
    kept: Vec<u8>,
    rest: Rest,
    /// Bytes of the server's that are in `rest` or accepted, and not counted as written yet.
    uncounted: u64,
    seen: u64,
    patience: Patience,
}

impl Outward {
    /// Begins behind the handshake.
    pub fn new(guest: Arc<Guest>, ledger: Arc<Ledger>) -> Self {
        Self {
            guest,
            ledger,
            scanner: Scanner::new(Limits::NONE),
            kept: Vec::new(),
            rest: Rest::default(),
            uncounted: 0,
            seen: 0,
            patience: Patience::default(),
        }
    }

    /// Carries on until the connection ends.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match ready!(self.poll_end(cx)) {
            Ok(never) => match never {},
            Err(end) => Poll::Ready(end),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<std::convert::Infallible, End>> {
        let guest = Arc::clone(&self.guest);
        guest.account.register_outward(cx);
        loop {
            if guest.account.is_parting() {
                return Poll::Ready(Err(End::Closed));
            }
            let flushed = self.rest.poll_flush(cx, &guest.outside)?;
            if flushed.is_pending() {
                // Over TLS, what was accepted may not have been sent.
                let sent = guest.outside.sent().unwrap_or(self.rest.accepted);
                if sent != self.seen {
                    self.seen = sent;
                    self.patience.renew();
                }
                ready!(self.patience.poll(cx, STALL));
                return Poll::Ready(Err(Refusal::Stalled.into()));
            }
            self.patience.renew();
            if self.uncounted > 0 {
                let bytes = std::mem::take(&mut self.uncounted);
                self.ledger.written(&guest.account, bytes, self.scanner.messages());
            }
            if !self.answer_ping(cx, &guest)? {
                ready!(self.poll_read(cx, &guest))?;
            }
        }
    }

    /// Reads what the server still sends, for nobody, until its side of the connection has ended. `ZeroMQ` must not find
    /// the connection broken as it writes: then a task of its own, on a thread that others need, waits for a lock.
    pub fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let guest = Arc::clone(&self.guest);
        (self.kept, self.rest) = (Vec::new(), Rest::default());
        with_scratch(|scratch| {
            while let Ok(1..) = ready!(Pin::new(&mut &guest.inner).poll_read(cx, scratch)) {}
            Poll::Ready(())
        })
    }

    /// Sends the PONG that waits, if this is a place for it; says whether it did.
    fn answer_ping(&mut self, cx: &mut Context<'_>, guest: &Guest) -> io::Result<bool> {
        if self.scanner.within_message() || !self.kept.is_empty() {
            return Ok(false);
        }
        let Some(pong) = guest.account.take_pong() else { return Ok(false) };
        self.rest.write(cx, &guest.outside, &pong)?;
        Ok(true)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, guest: &Guest) -> Poll<Result<(), End>> {
        let kept = std::mem::take(&mut self.kept);
        let left = self.scanner.left();
        let read = poll_read_behind(cx, &guest.inner, &kept, left, |cx, bytes| self.scan(cx, guest, bytes));
        if read.is_pending() {
            self.kept = kept;
        }
        read
    }

    fn scan(&mut self, cx: &mut Context<'_>, guest: &Guest, mut bytes: &[u8]) -> Result<(), End> {
        while !bytes.is_empty() {
            // A PONG has its place between two messages, so the first end of one is looked for.
            let most = if guest.account.has_pong() { 1 } else { u64::MAX };
            let Step::Pass(count) = self.scanner.step(bytes, most)? else { break };
            self.rest.write(cx, &guest.outside, &bytes[..count])?;
            self.uncounted += count as u64;
            bytes = &bytes[count..];
            self.answer_ping(cx, guest)?;
        }
        self.kept = bytes.to_vec();
        Ok(())
    }
}
