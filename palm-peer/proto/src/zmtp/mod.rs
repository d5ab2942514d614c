//! What a stranger's bytes may be, before `ZeroMQ` sees them: ZMTP 3 as far as a door must know it.
//!
//! Nothing here holds on to more than it was given, and no announced length is believed.

pub mod frames;
pub mod handshake;
pub mod messages;
#[cfg(test)]
mod tests;

use std::fmt;

/// Why a connection was not let in, or cut off. The names are those of the counters in `_ping`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// Its first bytes are none of ZMTP.
    NotZmtp,
    /// It speaks TLS, and we do not.
    Tls,
    /// It does not speak TLS, and we do.
    NotTls,
    /// It does not speak the version of TLS that we do.
    TlsVersion,
    /// It showed no certificate, or none that is accepted.
    Certificate,
    /// It did not accept our certificate.
    Distrusted,
    /// It speaks ZMTP, but an older version than 3.
    Version,
    /// It asks for another mechanism than NULL.
    Mechanism,
    /// What follows the greeting is no READY as it must be.
    Ready,
    /// Its socket is of a type that has no business here.
    SocketType,
    /// Its identity is longer than 255 bytes.
    Identity,
    /// A frame's flags contradict each other.
    Flags,
    /// A message is longer than the limit.
    TooLong,
    /// A message has more frames than the limit.
    TooManyFrames,
    /// A command came that has no place after the handshake.
    Command,
    /// It did not finish its handshake in time.
    Silent,
    /// It stopped in the middle of a message, promised to be heard of again and was not, or takes no answers.
    Stalled,
    /// More answers wait for it than the limit.
    Unread,
    /// There are as many connections as there may be.
    TooMany,
    /// There are as many connections from its address as there may be.
    TooManyFromAddress,
    /// The process has no file descriptor left for it.
    Descriptors,
    /// It ended, or broke, before its handshake was done.
    ClosedEarly,
    /// The server failed to serve it, for a reason of its own.
    Internal,
}

impl Refusal {
    /// All of them, in order.
    pub const ALL: [Self; 23] = [
        Self::NotZmtp,
        Self::Tls,
        Self::NotTls,
        Self::TlsVersion,
        Self::Certificate,
        Self::Distrusted,
        Self::Version,
        Self::Mechanism,
        Self::Ready,
        Self::SocketType,
        Self::Identity,
        Self::Flags,
        Self::TooLong,
        Self::TooManyFrames,
        Self::Command,
        Self::Silent,
        Self::Stalled,
        Self::Unread,
        Self::TooMany,
        Self::TooManyFromAddress,
        Self::Descriptors,
        Self::ClosedEarly,
        Self::Internal,
    ];

    /// Its name among the counters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotZmtp => "not_zmtp",
            Self::Tls => "tls",
            Self::NotTls => "not_tls",
            Self::TlsVersion => "tls_version",
            Self::Certificate => "certificate",
            Self::Distrusted => "distrusted",
            Self::Version => "version",
            Self::Mechanism => "mechanism",
            Self::Ready => "ready",
            Self::SocketType => "socket_type",
            Self::Identity => "identity",
            Self::Flags => "flags",
            Self::TooLong => "too_long",
            Self::TooManyFrames => "too_many_frames",
            Self::Command => "command",
            Self::Silent => "silent",
            Self::Stalled => "stalled",
            Self::Unread => "unread",
            Self::TooMany => "too_many",
            Self::TooManyFromAddress => "too_many_from_address",
            Self::Descriptors => "descriptors",
            Self::ClosedEarly => "closed_early",
            Self::Internal => "internal",
        }
    }

    /// What to do about it, where the fault is the server's own and not the stranger's.
    #[must_use]
    pub fn remedy(self) -> Option<&'static str> {
        match self {
            Self::Descriptors => {
                Some("raise its limit of open files (ulimit -n, LimitNOFILE=), or lower max_connections")
            }
            Self::Internal => Some("restart this server if the warning comes again"),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotZmtp => "it does not speak ZMTP",
            Self::Tls => "it speaks TLS, which takes cacert, cert and key on this side too",
            Self::NotTls => "it speaks no TLS, which takes cacert, cert and key on its side too",
            Self::TlsVersion => "it does not speak TLS 1.3",
            Self::Certificate => "it has no certificate that is accepted",
            Self::Distrusted => "it does not accept this server's certificate",
            Self::Version => "it speaks a version of ZMTP before 3",
            Self::Mechanism => "its security mechanism is not NULL",
            Self::Ready => "its handshake has no proper READY",
            Self::SocketType => "its socket is of the wrong type",
            Self::Identity => "its identity is longer than 255 bytes",
            Self::Flags => "a frame has impossible flags",
            Self::TooLong => "a message is longer than the limit",
            Self::TooManyFrames => "a message has too many frames",
            Self::Command => "it sent a command out of place",
            Self::Silent => "it did not finish its handshake in time",
            Self::Stalled => "it went silent",
            Self::Unread => "it does not read its answers",
            Self::TooMany => "there are too many connections",
            Self::TooManyFromAddress => "there are too many connections from its address",
            Self::Descriptors => "the process has no file descriptors left",
            Self::ClosedEarly => "it ended before its handshake was done",
            Self::Internal => "the server failed",
        })
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    command: bool,
    more: bool,
    /// How long the body says it is.
    length: u64,
    /// How long the header itself is: 2 or 9.
    size: usize,
}

impl Header {
    /// Reads a header; `None` when there is more to come of it.
    fn read(bytes: &[u8]) -> Result<Option<Self>, Refusal> {
        let Some((flags, rest)) = bytes.split_first() else { return Ok(None) };
        let (more, long, command) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        if flags & !7 != 0 || (command && more) {
            return Err(Refusal::Flags);
        }
        let header = |length, size| Some(Self { command, more, length, size });
        Ok(if long {
            rest.first_chunk().and_then(|length| header(u64::from_be_bytes(*length), 9))
        } else {
            rest.first().and_then(|length| header(u64::from(*length), 2))
        })
    }
}

/// The parts of a command's body: its name, and what follows.
fn command(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = body.split_first()?;
    rest.split_at_checked(usize::from(*length))
}
