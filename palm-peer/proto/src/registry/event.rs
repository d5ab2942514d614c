//! The registry's events and actions.

use super::Testimony;
use crate::types::{
    ids::{LeaseId, Revision},
    record::Record,
    text::plain,
    tombstone::Tombstone,
};
use log::Level;
use std::time::Duration;
use uuid::Uuid;

/// The longest line, in bytes: enough for the digest of a server that logs only
/// errors in one period.
const MAX_LINE_BYTES: usize = 256 * 1024;

/// A log line. Parts of it come from servers and from anyone with write access to etcd, so it is
/// escaped: always one line, no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its level.
    pub level: Level,
    /// Whether it is `CRITICAL`, a level that pylm has and the `log` facade lacks
    /// (docs/pylm-compatibility.md).
    pub critical: bool,
    /// Its text.
    pub text: String,
}

impl Line {
    /// Creates a line of this level.
    pub(crate) fn new(level: Level, text: impl Into<String>) -> Self {
        Self {
            level,
            critical: false,
            text: plain(&text.into(), MAX_LINE_BYTES),
        }
    }

    /// Creates a line of level `CRITICAL`.
    pub(crate) fn critical(text: impl Into<String>) -> Self {
        Self {
            level: Level::Error,
            critical: true,
            text: text.into(),
        }
    }
}

/// Identifies a probe or question, so that a stale answer is discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub(super) u64);

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A record was put under `/servers/`.
    Registered {
        /// The record.
        record: Record,
        /// Its mod revision.
        modified: Revision,
        /// The lease that it is on.
        lease: Option<LeaseId>,
    },
    /// An invalid record was put under `/servers/`.
    Invalid {
        /// Its key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A record was deleted.
    Deleted {
        /// Whose.
        uuid: Uuid,
        /// The last mod revision of the deleted record.
        written: Revision,
        /// The tombstone, if there is one.
        departure: Option<Tombstone>,
        /// Whether it was deleted by a reset of the mesh.
        reset: bool,
        /// Whether etcd still knows the lease that the record was on.
        lease_alive: bool,
    },
    /// An invalid record under `/servers/` was deleted.
    InvalidRemoved {
        /// Its key.
        key: String,
    },
    /// A probe was answered.
    ProbeOk {
        /// By whom.
        uuid: Uuid,
        /// Which probe.
        token: Token,
        /// The answer to `_log_query`.
        digest: String,
    },
    /// A probe could not be delivered, or its answer was an error.
    ProbeFailed {
        /// By whom.
        uuid: Uuid,
        /// Which probe.
        token: Token,
        /// Why.
        reason: String,
    },
    /// A probe could not be sent because of a local error: it says nothing about the server.
    Unsent {
        /// To whom.
        uuid: Uuid,
        /// Which probe.
        token: Token,
        /// Why.
        reason: String,
    },
    /// This leader's link to the server broke, and now its port refuses connections, or another
    /// server answers there.
    ProcessGone {
        /// Whose.
        uuid: Uuid,
    },
    /// A witness that was asked by [`Action::Ask`] has answered, or could not be asked.
    Testified {
        /// About whom.
        uuid: Uuid,
        /// Which question.
        token: Token,
        /// The witness.
        witness: Uuid,
        /// Its answer.
        testimony: Testimony,
    },
    /// A write asked for by [`Action::Configure`] or [`Action::Remove`], or made for
    /// [`Registry::take_unvouched`](super::Registry::take_unvouched), ended. When it succeeded, the
    /// watch reports the change.
    WriteDone {
        /// Whose record.
        uuid: Uuid,
        /// The revision of the write; `None` when it is not known to have succeeded.
        stands: Option<Revision>,
    },
}

impl Event {
    /// Returns the server that the event is about.
    pub(super) fn about(&self) -> Option<Uuid> {
        match self {
            Self::Registered { record, .. } => Some(record.uuid),
            Self::Deleted { uuid, .. }
            | Self::ProbeOk { uuid, .. }
            | Self::ProbeFailed { uuid, .. }
            | Self::Unsent { uuid, .. }
            | Self::ProcessGone { uuid }
            | Self::Testified { uuid, .. }
            | Self::WriteDone { uuid, .. } => Some(*uuid),
            Self::Invalid { .. } | Self::InvalidRemoved { .. } => None,
        }
    }
}

/// A record to be removed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Whose.
    pub uuid: Uuid,
    /// The server's name.
    pub server: String,
    /// The mod revision of the record.
    pub modified: Revision,
    /// The reason, for the log and the tombstone.
    pub reason: &'static str,
    /// The lease of the record.
    pub lease: Option<LeaseId>,
    /// Whether the process is proven gone, so that the lease must be revoked.
    pub revoke: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
// Most actions contain a record, and few exist at a time.
#[allow(clippy::large_enum_variant)]
pub enum Action {
    /// Ask the server for its log digest, and report the outcome with this token.
    Probe {
        /// Whom.
        uuid: Uuid,
        /// Where.
        endpoint: String,
        /// Which probe.
        token: Token,
        /// Whether to use a new connection, as a new client would: an existing one may work when no
        /// new one does, and vice versa.
        fresh: bool,
    },
    /// Ask these witnesses to reach a server over a new connection, and report their answers.
    Ask {
        /// About whom.
        uuid: Uuid,
        /// Which question.
        token: Token,
        /// The witnesses and their endpoints.
        witnesses: Vec<(Uuid, String)>,
        /// How long each may take.
        time: Duration,
    },
    /// Resign, if there is another candidate: others reach servers that this leader does not.
    Resign {
        /// The servers that it does not reach, and their endpoints.
        unreached: Vec<(Uuid, String)>,
    },
    /// Write this record, if its mod revision is still `modified`, and publish the server; if it is
    /// not ready, delete the published key.
    Configure {
        /// The record to write.
        record: Record,
        /// The mod revision that it replaces.
        modified: Revision,
        /// The lease of the record, and of the published key.
        lease: Option<LeaseId>,
    },
    /// Delete the record, if its mod revision is still `modified`, and the published key, and
    /// put a tombstone.
    Remove(Removal),
    /// Delete the published key of a server that has no record, unless it has one again.
    Withdraw {
        /// Whose.
        uuid: Uuid,
        /// The server's name.
        server: String,
    },
    /// Write to the log.
    Log(Line),
}
