//! Both directions of one connection: what comes is checked and passed on, what goes is written.
//!
//! A native connection's messages are decoded, and its answers encoded, here. The bytes of all
//! others are copied from and to the inner socket. Nothing is accumulated: bytes are scanned and
//! written from a buffer that all connections of a thread share. Only bytes that the other side
//! does not accept at once are kept, and then no more is read.

pub(super) use self::{
    native::{Decoding, FromOutbox},
    to_client::ToClient,
    to_server::{Sink, ToInner, ToServer},
};

mod native;
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

/// The read size: small, so that few bytes have to be kept when no more may be passed.
const SHORT_READ: usize = 16 * 1024;
const LONG_READ: usize = 256 * 1024;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionEnd {
    /// It was closed by the peer, or broke.
    Closed,
    /// The ingress ended it.
    Refused(RejectReason),
}

impl From<io::Error> for ConnectionEnd {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The system timed out: the peer's host vanished, or has accepted nothing for longer
            // than `TCP_USER_TIMEOUT`.
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

/// Runs a closure with the thread's buffer.
fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut scratch = SCRATCH.take();
    scratch.resize(LONG_READ + SHORT_READ, 0);
    let result = work(&mut scratch);
    SCRATCH.set(scratch);
    result
}

/// Reads behind the `kept` bytes, up to the rest of a frame, and passes all of them to `look`.
fn poll_read_behind(
    cx: &mut Context<'_>,
    mut from: impl AsyncRead + Unpin,
    kept: &[u8],
    left: u64,
    look: impl FnOnce(&mut Context<'_>, &[u8]) -> Result<(), ConnectionEnd>,
) -> Poll<Result<(), ConnectionEnd>> {
    let ahead = kept.len();
    let wanted = usize::try_from(left)
        .unwrap_or(LONG_READ)
        .clamp(SHORT_READ, LONG_READ);
    with_scratch(|scratch| {
        scratch[..ahead].copy_from_slice(kept);
        let count = ready!(Pin::new(&mut from).poll_read(cx, &mut scratch[ahead..ahead + wanted]))?;
        if count == 0 {
            return Poll::Ready(Err(ConnectionEnd::Closed));
        }
        Poll::Ready(look(cx, &scratch[..ahead + count]))
    })
}

/// Bytes that the other side has not accepted yet.
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

    /// Writes `data`, and keeps the bytes that are not accepted at once.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        mut to: impl AsyncWrite + Unpin,
        mut data: &[u8],
    ) -> io::Result<()> {
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

    /// Writes the kept bytes.
    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        mut to: impl AsyncWrite + Unpin,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let count = ready!(Pin::new(&mut to).poll_write(cx, &self.bytes[self.pos..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.accepted += count as u64;
            self.pos += count;
        }
        if !self.bytes.is_empty() {
            *self = Self {
                accepted: self.accepted,
                ..Self::default()
            };
        }
        // Over TLS, accepted bytes may not have been sent yet.
        Pin::new(&mut to).poll_flush(cx)
    }
}

/// A timer that wakes a task at the last requested time.
#[derive(Debug, Default)]
struct Alarm(Option<Sleep>);

impl Alarm {
    /// Ready at this time, or never.
    fn poll(&mut self, cx: &mut Context<'_>, until: Option<Instant>) -> Poll<()> {
        if self.0.as_ref().map(Sleep::deadline) != until {
            self.0 = until.map(timer::sleep_until);
        }
        self.0
            .as_mut()
            .map_or(Poll::Pending, |sleep| Pin::new(sleep).poll(cx))
    }
}
