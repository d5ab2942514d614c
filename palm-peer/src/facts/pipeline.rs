//! What clients can reach: the value of `/pipelines/<server>`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One server that clients can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its identity.
    pub uuid: Uuid,
    /// Where it listens: `tcp://host:port`.
    pub endpoint: String,
    /// What it answers.
    pub functions: Vec<String>,
}

/// All servers of one name that clients can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipeline {
    /// The name that the instances share.
    pub server: String,
    /// What at least one of them answers, in the order of the oldest instance that has it.
    pub functions: Vec<String>,
    /// The instances, by uuid.
    pub instances: Vec<Instance>,
}

impl Pipeline {
    /// The JSON that etcd holds.
    #[must_use]
    pub fn to_json(&self) -> String {
        super::to_json(self)
    }

    /// Reads what etcd holds; `None` when it is no pipeline.
    #[must_use]
    pub fn from_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }
}
