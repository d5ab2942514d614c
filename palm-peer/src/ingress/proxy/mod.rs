//! Carries the bytes of one connection, in both directions, and sees that they are what they may be.
//!
//! Nothing is collected: what was read is scanned and written on from a buffer that all connections of a thread share. Only
//! what the other side does not accept at once is kept, and then no more is read.

pub(super) use self::{to_client::ToClient, to_server::ToServer};

mod to_client;
mod to_server;

use crate::io::timer::{self, Sleep};
use futures::{AsyncRead, AsyncWrite};
use palm_proto::zmtp::RejectReason;
use std::{
    cell::Cell,
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

/// How much is read at once: little where messages are short, so that little has to wait when no more may be passed.
const SHORT_READ: usize = 16 * 1024;
const LONG_READ: usize = 256 * 1024;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionEnd {
    /// One side closed it, or it broke.
    Closed,
    /// We ended it.
    Refused(RejectReason),
}

impl From<io::Error> for ConnectionEnd {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The system gave the connection up: its host vanished, or has taken nothing for longer than `TCP_USER_TIMEOUT`.
            io::ErrorKind::TimedOut => Self::Refused(RejectReason::Stalled),
            _ => Self::Closed,
        }
    }
}

impl From<RejectReason> for ConnectionEnd {
    fn from(reason: RejectReason) -> Self {
        Self::Refused(reason)
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
    look: impl FnOnce(&mut Context<'_>, &[u8]) -> Result<(), ConnectionEnd>,
) -> Poll<Result<(), ConnectionEnd>> {
    let ahead = kept.len();
    let wanted = usize::try_from(left).unwrap_or(LONG_READ).clamp(SHORT_READ, LONG_READ);
    with_scratch(|scratch| {
        scratch[..ahead].copy_from_slice(kept);
        let count = ready!(Pin::new(&mut from).poll_read(cx, &mut scratch[ahead..ahead + wanted]))?;
        if count == 0 {
            return Poll::Ready(Err(ConnectionEnd::Closed));
        }
        Poll::Ready(look(cx, &scratch[..ahead + count]))
    })
}

/// What the other side has not accepted yet.
#[derive(Debug, Default)]
struct WriteBuffer {
    bytes: Vec<u8>,
    pos: usize,
    /// How many bytes were accepted so far.
    accepted: u64,
}

impl WriteBuffer {
    fn is_empty(&self) -> bool {
        self.pos == self.bytes.len()
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
            let count = ready!(Pin::new(&mut to).poll_write(cx, &self.bytes[self.pos..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.accepted += count as u64;
            self.pos += count;
        }
        if !self.bytes.is_empty() {
            *self = Self { accepted: self.accepted, ..Self::default() };
        }
        // Over TLS, what was accepted may wait to be sent.
        Pin::new(&mut to).poll_flush(cx)
    }
}

/// Wakes a task at the time that was asked for last.
#[derive(Debug, Default)]
struct Alarm(Option<Sleep>);

impl Alarm {
    /// Ready at this time, or never.
    fn poll(&mut self, cx: &mut Context<'_>, until: Option<Instant>) -> Poll<()> {
        if self.0.as_ref().map(Sleep::deadline) != until {
            self.0 = until.map(timer::sleep_until);
        }
        self.0.as_mut().map_or(Poll::Pending, |sleep| Pin::new(sleep).poll(cx))
    }
}
