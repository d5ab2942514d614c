//! A published instance: the value of `/pipelines/<server>/<uuid>`.

use super::{names, record::Record};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// One server that clients can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The server's name, shared by its instances.
    pub server: String,
    /// The uuid of this instance.
    pub uuid: Uuid,
    /// Where it listens: `tcp://host:port`.
    pub endpoint: String,
    /// Its functions.
    pub functions: Vec<String>,
    /// The zone that it runs in, if its record names one.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "label"
    )]
    pub zone: Option<String>,
}

/// Reads a label; anything else counts as absent, so that the instance can be called nevertheless.
fn label<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) if names::is_label(&text) => Some(text),
        _ => None,
    })
}

impl Instance {
    /// Returns the instance that a record describes.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self {
            server: record.server.clone(),
            uuid: record.uuid,
            endpoint: record.endpoint(),
            functions: record.functions.clone(),
            zone: record.zone().map(str::to_owned),
        }
    }

    /// Returns the JSON for etcd.
    #[must_use]
    pub fn to_json(&self) -> String {
        super::to_json(self)
    }

    /// Reads the value of the key that ends in `name` (`<server>/<uuid>`). Returns `None` when it
    /// is not the instance that the key names.
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
        let instance = Instance {
            server: "a".into(),
            uuid,
            endpoint,
            functions: vec!["f".into()],
            zone: None,
        };
        let json = instance.to_json();
        assert!(!json.contains("zone"), "{json}");
        let read = |zone: &str| {
            let json = json.replace(r#"["f"]"#, &format!(r#"["f"],"zone":{zone}"#));
            let read = Instance::from_entry(&format!("a/{uuid}"), json.as_bytes());
            read.expect("an instance").zone
        };
        assert_eq!(read(r#""eu-1""#), Some("eu-1".into()));
        assert_eq!(read(r#""a b""#), None);
        assert_eq!(read("7"), None);
        assert_eq!(
            Instance::from_entry(&format!("a/{uuid}"), json.as_bytes()),
            Some(instance)
        );
        for name in [
            format!("b/{uuid}"),
            format!("a/{}", Uuid::nil()),
            "a".to_owned(),
            format!("a/{uuid}/"),
        ] {
            assert_eq!(Instance::from_entry(&name, json.as_bytes()), None, "{name}");
        }
        assert_eq!(Instance::from_entry(&format!("a/{uuid}"), b"{}"), None);
    }
}
