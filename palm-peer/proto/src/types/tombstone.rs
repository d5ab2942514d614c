//! Why a server left: the value of `/departed/<uuid>`.

use super::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

/// Who removed a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemovedBy {
    /// The peer left in an orderly way.
    Itself,
    /// The registry found the server dead or mute.
    Registry,
    /// A person removed it; it stays out.
    Admin,
}

/// The words after "because" in the registry's log when a person removed a server.
pub const REMOVED_BY_ADMIN: &str = "an administrator removed it";

/// The tombstone that is written in the transaction that deletes a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Who removed the record.
    pub why: RemovedBy,
    /// The words after "because" in the registry's log.
    pub reason: String,
    /// When it was removed.
    pub when: Timestamp,
}

impl Tombstone {
    /// The JSON that etcd holds.
    #[must_use]
    pub fn to_json(&self) -> String {
        super::to_json(self)
    }

    /// Reads what etcd holds; `None` when it is no departure.
    #[must_use]
    pub fn from_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }
}
