//! Errors of etcd, and whether another member should be tried.

use std::{error::Error as _, fmt, time::Duration};

/// The kind of an error, for callers that branch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EtcdErrorKind {
    /// No endpoint answered. It is unknown whether the request was carried out.
    Unreachable,
    /// As `Unreachable`, at one endpoint at least because of TLS: it fails until certificates or
    /// settings are corrected.
    Tls,
    /// etcd refused: wrong password, or no permission. Nothing was changed.
    Denied,
    /// The request or response is larger than etcd or PALM allows. Nothing was changed.
    TooLarge,
    /// The lease does not exist (any more). Nothing was changed.
    LeaseGone,
    /// The request or the settings are invalid. Nothing was changed.
    Invalid,
    /// etcd's alarm `NOSPACE` is raised: it accepts deletions and lease renewals, but no puts.
    /// Nothing was changed.
    NoSpace,
    /// Another cluster than before answers there; its responses are not used.
    WrongCluster,
    /// Any other error of etcd.
    Other,
}

impl EtcdErrorKind {
    /// All of them, in order.
    pub(super) const ALL: [Self; 9] = [
        Self::Unreachable,
        Self::Tls,
        Self::Denied,
        Self::TooLarge,
        Self::LeaseGone,
        Self::Invalid,
        Self::NoSpace,
        Self::WrongCluster,
        Self::Other,
    ];

    /// Returns its name among the counters.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Denied => "denied",
            Self::TooLarge => "too_large",
            Self::LeaseGone => "lease_gone",
            Self::Invalid => "invalid",
            Self::NoSpace => "no_space",
            Self::WrongCluster => "wrong_cluster",
            Self::Other => "other",
        }
    }
}

/// A request to etcd failed.
#[derive(Debug, Clone)]
pub struct EtcdError {
    kind: EtcdErrorKind,
    /// The last error of each endpoint that was tried.
    reasons: Vec<(String, String)>,
}

impl EtcdError {
    /// One endpoint gave a definite answer.
    pub(super) fn definite(kind: EtcdErrorKind, endpoint: &str, reason: String) -> Self {
        Self {
            kind,
            reasons: vec![(endpoint.to_owned(), reason)],
        }
    }

    /// All endpoints failed.
    pub(super) fn of_all(kind: EtcdErrorKind, reasons: Vec<(String, String)>) -> Self {
        Self { kind, reasons }
    }

    /// All endpoints failed, each with its own error.
    pub(super) fn of_each(errors: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::of_all(EtcdErrorKind::Unreachable, Vec::new());
        for error in errors {
            if all.kind == EtcdErrorKind::Unreachable {
                all.kind = error.kind;
            }
            all.reasons.extend(error.reasons);
        }
        all
    }

    /// Returns whether a retry may succeed.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        use EtcdErrorKind::{LeaseGone, Other, Tls, Unreachable, WrongCluster};
        matches!(
            self.kind,
            Unreachable | Tls | Other | LeaseGone | WrongCluster
        )
    }

    /// Returns whether etcd refuses until an administrator changes something: worth a warning where
    /// the request is retried.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self.kind,
            EtcdErrorKind::Unreachable | EtcdErrorKind::LeaseGone
        )
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> EtcdErrorKind {
        self.kind
    }
}

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, advice) = match self.kind {
            EtcdErrorKind::Unreachable => (
                "etcd cannot be reached",
                "check that etcd runs, has a leader, and listens at these endpoints",
            ),
            EtcdErrorKind::Tls => (
                "etcd cannot be reached",
                "check cacert, cert and key, and whether the URL has http:// or https:// as it should",
            ),
            EtcdErrorKind::Denied => (
                "etcd denied the request",
                "check the user, its password, and the permissions of its role",
            ),
            EtcdErrorKind::TooLarge => (
                "a request to etcd is too large",
                "make it smaller, or raise etcd's --max-request-bytes and --max-txn-ops",
            ),
            EtcdErrorKind::LeaseGone => ("the lease is gone from etcd", "get another one"),
            EtcdErrorKind::Invalid => (
                "etcd cannot carry out the request",
                "check the settings for etcd; if they are right, this is a bug in PALM",
            ),
            EtcdErrorKind::NoSpace => (
                "etcd is out of space and refuses every write",
                "compact, defragment and disarm the alarm, as docs/operations.md says under \"etcd is out of space\"",
            ),
            EtcdErrorKind::WrongCluster => (
                "another etcd cluster answers than before",
                "name the endpoints of one cluster only; docs/operations.md has more under \"Another cluster\"",
            ),
            EtcdErrorKind::Other => ("etcd failed", "see etcd's own log"),
        };
        write!(f, "{what}: ")?;
        for (place, (endpoint, reason)) in self.reasons.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{endpoint} ({reason})")?;
        }
        write!(f, "; {advice}")
    }
}

impl std::error::Error for EtcdError {}

/// How to recover from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recovery {
    /// The error is definite: another endpoint would return the same.
    Definite(EtcdErrorKind),
    /// The token expired, or is older than etcd's users: authenticate again.
    StaleToken,
    /// The member cannot answer now, though the connection works: try another member.
    Elsewhere,
    /// The connection is broken: open another one, here or elsewhere.
    Broken,
}

/// Classifies a failure. etcd's codes are too coarse (one code for "too many requests" and "disk
/// full"), so its messages, which its own Go client matches too, come first.
pub(super) fn classify(error: &etcd_client::Error) -> Recovery {
    use etcd_client::Error;
    match error {
        Error::GRpcStatus(status) => classify_message(status.message())
            .unwrap_or_else(|| classify_code(status.code() as i32, status.message())),
        Error::WatchError(message) | Error::LeaseKeepAliveError(message) => {
            classify_message(message).unwrap_or(Recovery::Broken)
        }
        Error::IoError(_) | Error::TransportError(_) | Error::EndpointError(_) => Recovery::Broken,
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
            Recovery::Definite(EtcdErrorKind::Invalid)
        }
        _ => Recovery::Definite(EtcdErrorKind::Other),
    }
}

/// Classifies by etcd's message.
fn classify_message(message: &str) -> Option<Recovery> {
    use EtcdErrorKind::{Denied, LeaseGone, NoSpace, TooLarge};
    const TABLE: &[(&str, Recovery)] = &[
        ("invalid auth token", Recovery::StaleToken),
        ("revision of auth store is old", Recovery::StaleToken),
        // No token, although authentication is on: it was enabled after we connected.
        ("user name is empty", Recovery::StaleToken),
        ("lease not found", Recovery::Definite(LeaseGone)),
        ("database space exceeded", Recovery::Definite(NoSpace)),
        ("permission denied", Recovery::Definite(Denied)),
        ("authentication failed", Recovery::Definite(Denied)),
        ("request is too large", Recovery::Definite(TooLarge)),
        ("too many operations", Recovery::Definite(TooLarge)),
        ("larger than max", Recovery::Definite(TooLarge)),
        ("message length too large", Recovery::Definite(TooLarge)),
        ("too many requests", Recovery::Elsewhere),
        ("not leader", Recovery::Elsewhere),
        ("no leader", Recovery::Elsewhere),
        ("leader changed", Recovery::Elsewhere),
        ("primary lessor", Recovery::Elsewhere),
    ];
    TABLE
        .iter()
        .find(|(part, _)| message.contains(part))
        .map(|&(_, recovery)| recovery)
}

/// Classifies by the number of the gRPC code, when the message is unknown. The type of the code is
/// tonic's, which this crate does not depend on otherwise.
fn classify_code(code: i32, message: &str) -> Recovery {
    let from_etcd = message.starts_with("etcdserver:");
    match code {
        // unavailable, deadline exceeded, data loss, from etcd: this member stops,
        // starts, or is corrupt
        14 | 4 | 15 if from_etcd => Recovery::Elsewhere,
        // unknown or internal, from etcd
        2 | 13 if from_etcd => Recovery::Definite(EtcdErrorKind::Other),
        // cancelled, unknown, deadline exceeded, aborted, internal, unavailable: from the transport
        1 | 2 | 4 | 10 | 13 | 14 | 15 => Recovery::Broken,
        // permission denied, unauthenticated
        7 => Recovery::Definite(EtcdErrorKind::Denied),
        16 => Recovery::StaleToken,
        // invalid argument, not found, already exists, failed precondition
        3 | 5 | 6 | 9 => Recovery::Definite(EtcdErrorKind::Invalid),
        _ => Recovery::Definite(EtcdErrorKind::Other),
    }
}

/// Returns the message of an error with its causes: "connection refused" is at the
/// end of the chain.
pub(super) fn describe(error: &etcd_client::Error) -> String {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return error.to_string();
    };
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

/// Returns the message for an endpoint that did not answer.
pub(super) fn silence(limit: Duration) -> String {
    format!("no answer within {limit:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_messages_take_precedence_over_its_codes() {
        use EtcdErrorKind::{Denied, Invalid, LeaseGone, NoSpace, Other, TooLarge};
        let all = |code, message: &str| {
            classify_message(message).unwrap_or_else(|| classify_code(code, message))
        };
        for (code, message, recovery) in [
            (14, "etcdserver: leader changed", Recovery::Elsewhere),
            (14, "etcdserver: request timed out", Recovery::Elsewhere),
            (14, "etcdserver: server stopped", Recovery::Elsewhere),
            (14, "tcp connect error", Recovery::Broken),
            (
                2,
                "h2 protocol error: error reading a body from connection",
                Recovery::Broken,
            ),
            (1, "operation was canceled", Recovery::Broken),
            (8, "etcdserver: too many requests", Recovery::Elsewhere),
            (
                8,
                "etcdserver: mvcc: database space exceeded",
                Recovery::Definite(NoSpace),
            ),
            (
                8,
                "grpc: received message larger than max (3 vs. 2)",
                Recovery::Definite(TooLarge),
            ),
            (
                3,
                "etcdserver: request is too large",
                Recovery::Definite(TooLarge),
            ),
            (3, "etcdserver: key not found", Recovery::Definite(Invalid)),
            (3, "etcdserver: user name is empty", Recovery::StaleToken),
            (
                3,
                "etcdserver: authentication failed, invalid user ID or password",
                Recovery::Definite(Denied),
            ),
            (
                5,
                "etcdserver: requested lease not found",
                Recovery::Definite(LeaseGone),
            ),
            (
                7,
                "etcdserver: permission denied",
                Recovery::Definite(Denied),
            ),
            (16, "etcdserver: invalid auth token", Recovery::StaleToken),
            (
                11,
                "etcdserver: mvcc: required revision has been compacted",
                Recovery::Definite(Other),
            ),
        ] {
            assert_eq!(all(code, message), recovery, "{code} {message}");
        }
    }
}
