//! What comes into the registry and what comes out of it.

use super::Testimony;
use crate::types::{
    ids::{LeaseId, Revision},
    record::Record,
    text::plain,
    tombstone::Tombstone,
};
use log::Level;
use uuid::Uuid;

/// The longest line, in bytes: a server that logs nothing but errors may have so much to say in one period.
const LONGEST_LINE: usize = 256 * 1024;

/// A log line. Parts of it come from servers and from anyone with write access to etcd, so it is escaped: always one line, no control
/// characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How grave it is.
    pub level: Level,
    /// Whether it is `CRITICAL`, a level that pylm has and the `log` facade has not (docs/pylm-compatibility.md).
    pub critical: bool,
    /// The words.
    pub text: String,
}

impl Line {
    /// A line of this level.
    pub(crate) fn new(level: Level, text: impl Into<String>) -> Self {
        Self { level, critical: false, text: plain(&text.into(), LONGEST_LINE) }
    }

    /// A line of level `CRITICAL`.
    pub(crate) fn critical(text: impl Into<String>) -> Self {
        Self { level: Level::Error, critical: true, text: text.into() }
    }
}

/// Tells the answers to different probes apart, so that a stale one is discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub(super) u64);

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A record stands under `/servers/`.
    Registered {
        /// The record.
        record: Record,
        /// Its mod revision.
        modified: Revision,
        /// The lease that it is on.
        lease: Option<LeaseId>,
    },
    /// Something that is no record stands under `/servers/`.
    Invalid {
        /// Its key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A record is gone.
    Deleted {
        /// Whose.
        uuid: Uuid,
        /// The last mod revision of the record that is gone.
        written: Revision,
        /// The note that was left.
        departure: Option<Tombstone>,
        /// Whether the mesh was reset at that moment.
        reset: bool,
        /// Whether etcd still knows the lease that the record was on.
        lease_alive: bool,
    },
    /// Something broken under `/servers/` is gone.
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
    /// A probe could not be sent, for a fault of the leader's own: it says nothing about the server.
    Unsent {
        /// To whom.
        uuid: Uuid,
        /// Which probe.
        token: Token,
        /// Why.
        reason: String,
    },
    /// A link that this leader had to the server broke, and now its port refuses, or another server answers there.
    ProcessGone {
        /// Whose.
        uuid: Uuid,
    },
    /// A server that was asked by [`Action::Ask`] has answered, or could not be asked.
    Testified {
        /// About whom.
        uuid: Uuid,
        /// Which question.
        token: Token,
        /// Who was asked.
        witness: Uuid,
        /// What it said.
        testimony: Testimony,
    },
    /// A write asked for by [`Action::Configure`] or [`Action::Remove`], or made for
    /// [`Registry::take_unvouched`](super::Registry::take_unvouched), ended. When it succeeded, the watch tells the rest.
    WriteDone {
        /// Whose record.
        uuid: Uuid,
        /// Since which revision it stands; `None` when it is not known to.
        stands: Option<Revision>,
    },
}

impl Event {
    /// The server that it is about.
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

/// What to do.
#[derive(Debug, Clone, PartialEq)]
// A record is what most actions are about, and few live at a time.
#[allow(clippy::large_enum_variant)]
pub enum Action {
    /// Ask the server for its log digest, and say how it went with this token.
    Probe {
        /// Whom.
        uuid: Uuid,
        /// Where.
        endpoint: String,
        /// Which probe.
        token: Token,
        /// Over a new connection, as a new client would: an old one may work when no new one does, or the other way round.
        fresh: bool,
    },
    /// Have these servers try to reach one over a new connection, each for no longer than a probe may take, and say what each found.
    Ask {
        /// About whom.
        uuid: Uuid,
        /// Which question.
        token: Token,
        /// Whom to ask, and where they are.
        witnesses: Vec<(Uuid, String)>,
    },
    /// Give up the lead, if somebody else stands for election: others reach what this leader does not.
    Resign {
        /// The servers that it does not reach, and where they are.
        unreached: Vec<(Uuid, String)>,
    },
    /// Write this record, if it is still the one of `modified`, and publish the server.
    Configure {
        /// The record to write.
        record: Record,
        /// What it replaces.
        modified: Revision,
        /// The lease that the record is on, and that what is published is to be on.
        lease: Option<LeaseId>,
    },
    /// Delete the record, if it is still the one of `modified`, and what is published of the server, and leave a note.
    Remove {
        /// Whose.
        uuid: Uuid,
        /// The server's name.
        server: String,
        /// What is deleted.
        modified: Revision,
        /// Why.
        reason: &'static str,
        /// The lease that the record is on.
        lease: Option<LeaseId>,
        /// Whether the process is proven gone, so that the lease is to be revoked.
        revoke: bool,
    },
    /// Delete what is published of a server that has no record any more, unless it has one again.
    Withdraw {
        /// Whose.
        uuid: Uuid,
        /// The server's name.
        server: String,
    },
    /// Write to the log.
    Log(Line),
}
