//! ZMTP 3, as far as the ingress must parse it to validate untrusted bytes before
//! `ZeroMQ` sees them.
//!
//! Nothing here allocates more than it was given; announced lengths are not trusted.

pub mod frames;
pub mod handshake;
pub mod messages;
#[cfg(test)]
mod tests;

use std::fmt;

/// Why a connection was rejected or cut off. The names are those of the counters in `_ping`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectReason {
    /// Its first bytes are not ZMTP.
    NotZmtp,
    /// It uses TLS, and this server does not.
    Tls,
    /// It does not use TLS, and this server does.
    NotTls,
    /// It does not support the required version of TLS.
    TlsVersion,
    /// It presented no certificate, or one that is not accepted.
    Certificate,
    /// It did not accept the server's certificate.
    Distrusted,
    /// Its version of ZMTP is older than 3.
    Version,
    /// It requests another mechanism than NULL.
    Mechanism,
    /// The greeting is not followed by a valid READY.
    Ready,
    /// Its socket type may not connect to a server.
    SocketType,
    /// Its identity is longer than 255 bytes.
    Identity,
    /// A frame's flags contradict each other.
    Flags,
    /// A message is longer than the limit.
    TooLong,
    /// A message has more frames than the limit.
    TooManyFrames,
    /// It sent a command that is invalid after the handshake.
    Command,
    /// It did not finish its handshake in time.
    Silent,
    /// It stopped in the middle of a message, missed the interval of PINGs that it announced, or
    /// does not read its answers.
    Stalled,
    /// The bytes of answers that wait for it exceed the limit.
    Unread,
    /// The maximum number of connections is reached.
    TooMany,
    /// The maximum number of connections from its address is reached.
    TooManyFromAddress,
    /// The process has no file descriptor left for it.
    Descriptors,
    /// It was closed, or broke, during the handshake.
    ClosedEarly,
    /// The server failed to serve it because of an internal error.
    Internal,
}

impl RejectReason {
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

    /// Returns its name among the counters.
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

    /// Returns what to do about it, where the cause is on the server's side.
    #[must_use]
    pub fn remedy(self) -> Option<&'static str> {
        match self {
            Self::Descriptors => Some(
                "raise its limit of open files (ulimit -n, LimitNOFILE=), or lower max_connections",
            ),
            Self::Internal => Some("restart this server if the warning comes again"),
            _ => None,
        }
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotZmtp => "it does not speak ZMTP",
            Self::Tls => "it uses TLS, which needs cacert, cert and key on this side too",
            Self::NotTls => "it does not use TLS, which needs cacert, cert and key on its side too",
            Self::TlsVersion => "it does not support TLS 1.3",
            Self::Certificate => "its certificate is not accepted",
            Self::Distrusted => "it does not accept this server's certificate",
            Self::Version => "it speaks a version of ZMTP before 3",
            Self::Mechanism => "its security mechanism is not NULL",
            Self::Ready => "its handshake has no valid READY",
            Self::SocketType => "its socket is of the wrong type",
            Self::Identity => "its identity is longer than 255 bytes",
            Self::Flags => "a frame has invalid flags",
            Self::TooLong => "a message is longer than the limit",
            Self::TooManyFrames => "a message has too many frames",
            Self::Command => "it sent an unexpected command",
            Self::Silent => "it did not finish its handshake in time",
            Self::Stalled => "it made no progress for too long",
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
    /// The announced length of the body.
    length: u64,
    /// The length of the header itself: 2 or 9.
    size: usize,
}

impl Header {
    /// Reads a header; `None` when it is incomplete.
    fn read(bytes: &[u8]) -> Result<Option<Self>, RejectReason> {
        let Some((flags, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let (more, long, command) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        if flags & !7 != 0 || (command && more) {
            return Err(RejectReason::Flags);
        }
        let header = |length, size| {
            Some(Self {
                command,
                more,
                length,
                size,
            })
        };
        Ok(if long {
            rest.first_chunk()
                .and_then(|length| header(u64::from_be_bytes(*length), 9))
        } else {
            rest.first()
                .and_then(|length| header(u64::from(*length), 2))
        })
    }
}

/// Splits a command's body into its name and the rest.
fn command(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = body.split_first()?;
    rest.split_at_checked(usize::from(*length))
}
