//! What a stranger sends: scanned, and passed on while there is room.

use super::{End, STALL, StallTimer, WriteBuffer, poll_read_behind};
use crate::ingress::{connection::ClientConnection, connection_table::ConnectionTable};
use palm_proto::zmtp::{
    Refusal,
    frames::{Limits, Scanner, Step},
};
use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// From how many bytes on a frame waits for its turn.
const LONG: u64 = 16 * 1024;

/// How often it is looked whether a long frame comes fast enough, if others wait for their turn.
const HASTE: Duration = Duration::from_secs(5);

/// How many bytes of it must then have come for each second.
const MIN_PER_SECOND: u64 = 1024 * 1024;

/// The longest piece of a header or command that waits for its rest.
const LONGEST_PIECE: usize = 64;

/// The direction from the stranger to the server.
#[derive(Debug)]
pub(crate) struct ToServer {
    guest: Arc<ClientConnection>,
    ledger: Arc<ConnectionTable>,
    scanner: Scanner,
    /// The long frame that comes next, and waits for its turn.
    waiting: Option<u64>,
    /// The long frame whose turn it was last: when that was, and its bytes.
    arriving: (Instant, u64),
    haste: StallTimer,
    /// What was read and not scanned.
    kept: Vec<u8>,
    /// Whether that cannot be scanned before more has come.
    starved: bool,
    rest: WriteBuffer,
    /// How long the other side means to be silent at most.
    silence: Option<Duration>,
    patience: StallTimer,
}

impl ToServer {
    /// Begins behind the handshake, of which `kept` is what was read beyond it.
    pub(crate) fn new(
        guest: Arc<ClientConnection>,
        ledger: Arc<ConnectionTable>,
        limits: Limits,
        kept: Vec<u8>,
    ) -> Self {
        Self {
            guest,
            ledger,
            scanner: Scanner::new(limits).asking_from(LONG),
            waiting: None,
            arriving: (Instant::now(), 0),
            haste: StallTimer::default(),
            kept,
            starved: false,
            rest: WriteBuffer::default(),
            silence: None,
            patience: StallTimer::default(),
        }
    }

    /// Carries on until the connection ends.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Infallible, End>> {
        let guest = Arc::clone(&self.guest);
        loop {
            ready!(self.rest.poll_flush(cx, &guest.inner))?;
            let room = guest.account.poll_room(cx);
            if guest.account.is_parting() {
                return Poll::Ready(Err(End::Closed));
            }
            self.poll_haste(cx)?;
            if room.is_pending() {
                self.patience.renew();
                return Poll::Pending;
            }
            if let Some(bytes) = self.waiting {
                self.patience.renew();
                ready!(self.ledger.poll_turn(&guest.account, bytes, self.scanner.messages(), cx));
                (self.waiting, self.arriving) = (None, (Instant::now(), bytes));
                self.scanner.permit();
            }
            if self.starved || self.kept.is_empty() {
                ready!(self.poll_read(cx, &guest))?;
            } else {
                let kept = std::mem::take(&mut self.kept);
                self.scan(cx, &guest, &kept)?;
            }
        }
    }

    /// Ends the connection when it holds the room that others wait for and does not use it.
    fn poll_haste(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let left = self.scanner.long_left();
        if left == 0 {
            self.haste.renew();
            return Ok(());
        }
        while self.haste.poll(cx, HASTE).is_ready() {
            self.haste.renew();
            let (since, bytes) = self.arriving;
            if bytes - left < MIN_PER_SECOND * since.elapsed().as_secs() && self.ledger.are_turns_awaited() {
                return Err(Refusal::Stalled.into());
            }
        }
        Ok(())
    }

    /// Reads, behind what is kept, and scans both.
    fn poll_read(&mut self, cx: &mut Context<'_>, guest: &ClientConnection) -> Poll<Result<(), End>> {
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
    fn scan(&mut self, cx: &mut Context<'_>, guest: &ClientConnection, mut bytes: &[u8]) -> Result<(), End> {
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
                Step::Long(bytes) => {
                    self.waiting = Some(bytes);
                    break;
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
