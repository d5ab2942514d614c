//! Why a server left: the value of `/departed/<uuid>`.

use super::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

/// Who removed a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemovedBy {
    /// The peer left gracefully.
    Itself,
    /// The registry found the server dead or unresponsive.
    Registry,
    /// An administrator removed it; it stays out.
    Admin,
}

/// The text after "because" in the registry's log when an administrator removed a server.
pub const REMOVED_BY_ADMIN: &str = "an administrator removed it";

/// The tombstone that is written in the transaction that deletes a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Who removed the record.
    pub why: RemovedBy,
    /// The text after "because" in the registry's log.
    pub reason: String,
    /// When it was removed.
    pub when: Timestamp,
}

impl Tombstone {
    /// Returns the JSON for etcd.
    #[must_use]
    pub fn to_json(&self) -> String {
        super::to_json(self)
    }

    /// Reads a tombstone from JSON; `None` when it is invalid.
    #[must_use]
    pub fn from_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }
}
