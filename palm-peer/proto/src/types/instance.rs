//! What clients can reach: the value of `/pipelines/<server>/<uuid>`.

use super::{names, record::Record};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One server that clients can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The name that it shares with the other instances of its kind.
    pub server: String,
    /// Its identity.
    pub uuid: Uuid,
    /// Where it listens: `tcp://host:port`.
    pub endpoint: String,
    /// What it answers.
    pub functions: Vec<String>,
}

impl Instance {
    /// The instance that a record describes.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self {
            server: record.server.clone(),
            uuid: record.uuid,
            endpoint: record.endpoint(),
            functions: record.functions.clone(),
        }
    }

    /// The JSON that etcd holds.
    #[must_use]
    pub fn to_json(&self) -> String {
        super::to_json(self)
    }

    /// Reads what etcd holds under the key that ends in `name` (`<server>/<uuid>`); `None` when that is not the instance which the
    /// key names.
    #[must_use]
    pub fn from_entry(name: &str, json: &[u8]) -> Option<Self> {
        let instance: Self = serde_json::from_slice(json).ok()?;
        let (server, uuid) = name.split_once('/')?;
        let named = server == instance.server && uuid == instance.uuid.to_string();
        (named && names::is_valid(server)).then_some(instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_read_under_its_own_key_alone() {
        let uuid = Uuid::from_u128(7);
        let endpoint = "tcp://127.0.0.1:5555".to_owned();
        let instance = Instance { server: "a".into(), uuid, endpoint, functions: vec!["f".into()] };
        let json = instance.to_json();
        assert_eq!(Instance::from_entry(&format!("a/{uuid}"), json.as_bytes()), Some(instance));
        for name in [format!("b/{uuid}"), format!("a/{}", Uuid::nil()), "a".to_owned(), format!("a/{uuid}/")] {
            assert_eq!(Instance::from_entry(&name, json.as_bytes()), None, "{name}");
        }
        assert_eq!(Instance::from_entry(&format!("a/{uuid}"), b"{}"), None);
    }
}
