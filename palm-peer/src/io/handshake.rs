//! The ZMTP handshake, for both sides of a connection.

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use palm_proto::zmtp::{
    RejectReason,
    handshake::{
        GREETING_LENGTH, answers_pings, check_greeting, check_ready, greeting, is_native, ready,
    },
};
use std::{fmt, io};

/// The buffer size: more than a greeting and the longest READY.
const LONGEST_OPENING: usize = 4096;

/// Why a handshake failed.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// The peer violated the protocol, or is not a PALM peer.
    Refused(RejectReason),
    /// It broke, or was closed.
    Broken(io::Error),
}

impl From<RejectReason> for HandshakeError {
    fn from(reason: RejectReason) -> Self {
        Self::Refused(reason)
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(reason) => reason.fmt(f),
            Self::Broken(error) => error.fmt(f),
        }
    }
}

/// The peer of an open connection.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The bytes that it sent after the handshake.
    pub beyond: Vec<u8>,
    /// Whether it answers PINGs.
    pub answers_pings: bool,
    /// Whether the link is native: both sides are peers of the library.
    pub is_native: bool,
}

/// Returns whether this process offers native links. With `PALM_TEST_LINKS=plain` it does not, so
/// that tests and benchmarks can have peers that know of none; other builds do not read that.
fn offers_native() -> bool {
    #[cfg(any(debug_assertions, feature = "bench"))]
    {
        static PLAIN: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
            std::env::var("PALM_TEST_LINKS").is_ok_and(|links| links == "plain")
        });
        !*PLAIN
    }
    #[cfg(not(any(debug_assertions, feature = "bench")))]
    true
}

/// Performs the handshake as a socket of type `ours` with a peer of one of these types. Not bounded
/// in time. Fails when the peer is no such socket, or the connection ends.
pub(crate) async fn shake_hands(
    mut read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    ours: &str,
    theirs: &[&str],
) -> Result<Opened, HandshakeError> {
    write.write_all(&greeting()).await?;
    write.flush().await?;
    let mut seen = Vec::new();
    while !check_greeting(&seen)? {
        read_more(&mut read, &mut seen).await?;
    }
    let offers_native = offers_native();
    write.write_all(&ready(ours, None, offers_native)).await?;
    write.flush().await?;
    let answers_pings = answers_pings(&seen);
    seen.drain(..GREETING_LENGTH);
    let length = loop {
        match check_ready(&seen, theirs)? {
            Some(length) => break length,
            None => read_more(&mut read, &mut seen).await?,
        }
    };
    let is_native = offers_native && is_native(&seen[..length]);
    seen.drain(..length);
    Ok(Opened {
        beyond: seen,
        answers_pings,
        is_native,
    })
}

async fn read_more(
    read: &mut (impl AsyncRead + Unpin),
    seen: &mut Vec<u8>,
) -> Result<(), HandshakeError> {
    let start = seen.len();
    if start >= LONGEST_OPENING {
        return Err(RejectReason::Ready.into());
    }
    seen.resize(LONGEST_OPENING, 0);
    let count = read.read(&mut seen[start..]).await?;
    seen.truncate(start + count);
    if count == 0 {
        Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
    } else {
        Ok(())
    }
}
