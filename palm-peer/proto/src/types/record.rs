//! The record of a server: everything that the mesh knows about it.

use super::{names, timestamp::Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, ser::Formatter};
use std::{fmt, io};
use uuid::Uuid;

/// The longest valid record, in bytes.
pub const LONGEST: usize = 256 * 1024;

/// The record of a server: the value of `/servers/<uuid>`, with the fields in this order.
///
/// ```
/// # use palm_proto::types::record as palm_peer;
/// use palm_peer::Record;
///
/// let stored = br#"{"host": "10.0.0.5", "pid": 4749, "when": "2026-02-16T11:28:59.088608", "leader": null,
///     "server": "text", "ports": [5555], "kind": "registered", "functions": ["shout"],
///     "uuid": "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4", "configured": true}"#;
/// let record = Record::from_json(stored)?;
/// assert_eq!(record.endpoint(), "tcp://10.0.0.5:5555");
/// # Ok::<_, palm_peer::InvalidRecord>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Record {
    /// The host at which other processes reach the server.
    pub host: String,
    /// The process id on that host.
    pub pid: u32,
    /// When the server registered.
    pub when: Timestamp,
    /// The leader that last vouched for it: the one that configured it, or a later one that reached
    /// it; `None` before.
    pub leader: Option<Uuid>,
    /// The server's name, shared by its instances.
    pub server: String,
    /// The ports; that of the ingress first.
    pub ports: Vec<u16>,
    /// `registered`, unless the program sets another kind.
    pub kind: String,
    /// The program's functions, then the built-in ones.
    pub functions: Vec<String>,
    /// The uuid of this instance.
    pub uuid: Uuid,
    /// Whether a leader has reached it at its endpoint.
    pub configured: bool,
    /// The fields that pylm's records do not have: those with a method here, such as
    /// [`Record::zone`], and those of newer versions, which are ignored on reading and kept on
    /// rewriting.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Why a record is invalid: the message says what is wrong, and may quote the record, cut
/// to 200 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidRecord(String);

impl InvalidRecord {
    /// The message may quote the record, which anyone with access to etcd may have written: a long
    /// one is cut in the middle.
    fn new(message: impl Into<String>) -> Self {
        const MAX_CHARS: usize = 200;
        let message = message.into();
        let count = message.chars().count();
        if count <= MAX_CHARS {
            return Self(message);
        }
        let head: String = message.chars().take(MAX_CHARS / 2).collect();
        let tail: String = message.chars().skip(count - MAX_CHARS / 2).collect();
        Self(format!("{head}…{tail}"))
    }
}

impl fmt::Display for InvalidRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidRecord {}

impl Record {
    /// Returns the record of a server that does not listen yet; fill in the other fields.
    #[must_use]
    pub fn new(uuid: Uuid, server: impl Into<String>, when: Timestamp) -> Self {
        Self {
            host: String::new(),
            pid: 0,
            when,
            leader: None,
            server: server.into(),
            ports: Vec::new(),
            kind: "registered".into(),
            functions: Vec::new(),
            uuid,
            configured: false,
            extra: Map::new(),
        }
    }

    /// Returns the JSON for etcd, with pylm's separators, `", "` and `": "`
    /// (docs/pylm-compatibility.md).
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut json, GuideFormatter);
        // Writing to memory cannot fail, and every key is a string.
        let _ = self.serialize(&mut serializer);
        String::from_utf8(json).unwrap_or_default()
    }

    /// Returns the length of the record in bytes once it has a port and the leader
    /// that configured it, and is not ready.
    #[must_use]
    pub fn full_length(&self) -> usize {
        let mut full = Self {
            ports: vec![u16::MAX],
            leader: Some(self.uuid),
            configured: true,
            ..self.clone()
        };
        full.set_ready(false);
        full.to_json().len()
    }

    /// Returns the version of the server's program; `None` if it names none, or one that is not
    /// 1 to 64 visible ASCII characters. The same holds for the zone and the tags.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.label("version")
    }

    /// Returns the zone that the server runs in.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.label("zone")
    }

    /// Returns the server's tags, 32 at most.
    #[must_use]
    pub fn tags(&self) -> Vec<&str> {
        let tags = self.extra.get("tags").and_then(Value::as_array);
        let tags = tags.into_iter().flatten().filter_map(Value::as_str);
        tags.filter(|tag| names::is_label(tag))
            .take(names::MAX_TAGS)
            .collect()
    }

    /// Returns whether the server wants to be called: one that does not is registered, configured
    /// and probed like any other, but not published.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.extra.get("ready") != Some(&Value::Bool(false))
    }

    /// Sets the version of the server's program.
    pub fn set_version(&mut self, version: &str) {
        self.extra.insert("version".into(), version.into());
    }

    /// Sets the zone that the server runs in.
    pub fn set_zone(&mut self, zone: &str) {
        self.extra.insert("zone".into(), zone.into());
    }

    /// Sets the server's tags.
    pub fn set_tags(&mut self, tags: &[String]) {
        self.extra.insert("tags".into(), tags.into());
    }

    /// Sets whether the server wants to be called. The field is absent if it does.
    pub fn set_ready(&mut self, ready: bool) {
        if ready {
            self.extra.shift_remove("ready");
        } else {
            self.extra.insert("ready".into(), false.into());
        }
    }

    fn label(&self, field: &str) -> Option<&str> {
        let text = self.extra.get(field)?.as_str()?;
        names::is_label(text).then_some(text)
    }

    /// Reads a record from JSON.
    ///
    /// # Errors
    /// When it is too long, is not JSON, lacks a field, or has a field with a wrong type or value.
    pub fn from_json(json: &[u8]) -> Result<Self, InvalidRecord> {
        if json.len() > LONGEST {
            return Err(InvalidRecord::new(format!(
                "{} bytes long, {LONGEST} at most",
                json.len()
            )));
        }
        let record: Self =
            serde_json::from_slice(json).map_err(|e| InvalidRecord::new(e.to_string()))?;
        record.check()?;
        Ok(record)
    }

    /// Reads the record stored under the key that ends in `name`, which must be the record's uuid.
    ///
    /// # Errors
    /// As [`Record::from_json`], and when its uuid is not that of its key.
    pub fn from_entry(name: &str, json: &[u8]) -> Result<Self, InvalidRecord> {
        let record = Self::from_json(json)?;
        if name != record.uuid.to_string() {
            return Err(InvalidRecord::new(format!(
                "its key ends in {name}, its uuid is {}",
                record.uuid
            )));
        }
        Ok(record)
    }

    fn check(&self) -> Result<(), InvalidRecord> {
        let wrong_name = [&self.server, &self.kind]
            .into_iter()
            .chain(&self.functions)
            .find(|name| !names::is_valid(name));
        if let Some(name) = wrong_name {
            return Err(InvalidRecord::new(format!("{name:?} is not a valid name")));
        }
        if self.ports.first().is_none_or(|&port| port == 0) {
            return Err(InvalidRecord::new("it has no port"));
        }
        if self.host.is_empty()
            || self
                .host
                .contains(|c: char| c.is_whitespace() || c.is_control() || c == '/')
        {
            return Err(InvalidRecord::new(format!("{:?} is not a host", self.host)));
        }
        Ok(())
    }

    /// Returns the server's endpoint: `tcp://host:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        endpoint(&self.host, self.ports.first().copied().unwrap_or_default())
    }
}

/// Returns `tcp://host:port`, with an IPv6 address in brackets.
#[must_use]
pub fn endpoint(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("tcp://[{host}]:{port}")
    } else {
        format!("tcp://{host}:{port}")
    }
}

/// The layout of Python's `json.dumps`, in which pylm writes its records.
struct GuideFormatter;

impl Formatter for GuideFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUIDE: &str = concat!(
        r#"{"host": "127.0.0.1", "pid": 4749, "when": "2016-02-16T11:28:59.088608", "#,
        r#""leader": "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4", "server": "printf", "ports": [5555], "#,
        r#""kind": "registered", "functions": ["printf", "_ping", "_log_query", "get", "set", "append", "#,
        r#""delete"], "uuid": "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4", "configured": true}"#
    );

    #[test]
    fn pylms_record_round_trips_byte_for_byte() {
        let record = Record::from_json(GUIDE.as_bytes()).expect("pylm's record");
        assert_eq!(record.to_json(), GUIDE);
        assert_eq!(record.endpoint(), "tcp://127.0.0.1:5555");
    }

    #[test]
    fn unknown_fields_are_kept_on_rewriting() {
        let newer = GUIDE.replace("true}", r#"true, "weight": {"cpu": [1, 2]}}"#);
        let mut record = Record::from_json(newer.as_bytes()).expect("still a record");
        record.configured = false;
        assert_eq!(record.to_json(), newer.replace("true,", "false,"));
    }

    #[test]
    fn version_zone_tags_and_readiness_follow_pylms_fields() {
        let mut record = Record::from_json(GUIDE.as_bytes()).expect("pylm's record");
        assert_eq!(
            (record.version(), record.zone(), record.is_ready()),
            (None, None, true)
        );
        assert!(record.tags().is_empty());
        record.set_version("1.4.2");
        record.set_zone("eu-1");
        record.set_tags(&["gpu".into(), "rack=7".into()]);
        record.set_ready(false);
        let json = GUIDE.replace(
            "true}",
            r#"true, "version": "1.4.2", "zone": "eu-1", "tags": ["gpu", "rack=7"], "ready": false}"#,
        );
        assert_eq!(record.to_json(), json);
        let mut read = Record::from_json(json.as_bytes()).expect("a record");
        assert_eq!(
            (read.version(), read.zone(), read.is_ready()),
            (Some("1.4.2"), Some("eu-1"), false)
        );
        assert_eq!(read.tags(), ["gpu", "rack=7"]);
        read.set_ready(true);
        assert_eq!(read.to_json(), json.replace(r#", "ready": false"#, ""));
    }

    #[test]
    fn fields_with_other_contents_are_kept_and_ignored() {
        let long = "x".repeat(65);
        let other = GUIDE.replace(
            "true}",
            &format!(
                r#"true, "version": 3, "zone": "{long}", "tags": ["ok", 7, "not ok"], "ready": null}}"#
            ),
        );
        let record = Record::from_json(other.as_bytes()).expect("a record");
        assert_eq!(
            (record.version(), record.zone(), record.is_ready()),
            (None, None, true)
        );
        assert_eq!(record.tags(), ["ok"]);
        assert_eq!(record.to_json(), other);
    }

    #[test]
    fn invalid_records_say_what_is_wrong() {
        let cases = [
            ("", "EOF"),
            ("not json", "expected"),
            ("[]", "invalid type"),
            (
                &GUIDE.replace(r#""pid": 4749, "#, ""),
                "missing field `pid`",
            ),
            (&GUIDE.replace("4749", r#""4749""#), "invalid type"),
            (&GUIDE.replace("[5555]", "[]"), "no port"),
            (&GUIDE.replace("[5555]", "[70000]"), "invalid value"),
            (
                &GUIDE.replace(r#""printf", "ports""#, r#""a.b", "ports""#),
                "not a valid name",
            ),
            (&GUIDE.replace("127.0.0.1", ""), "not a host"),
            (
                &GUIDE.replace("127.0.0.1", "\\u001b]0;owned\\u0007"),
                "is not a host",
            ),
        ];
        for (json, message) in cases {
            let error = Record::from_json(json.as_bytes())
                .expect_err(json)
                .to_string();
            assert!(error.contains(message), "{json}: {error}");
        }
        let long = GUIDE.replace(
            "true}",
            &format!(r#"true, "x": "{}"}}"#, "y".repeat(1024 * 1024)),
        );
        assert!(Record::from_json(long.as_bytes()).is_err());
        assert!(Record::from_entry("other", GUIDE.as_bytes()).is_err());
        let wordy = GUIDE.replace("4749", &format!("\"{}\"", "ä".repeat(50_000)));
        let error = Record::from_json(wordy.as_bytes())
            .expect_err("no pid")
            .to_string();
        assert!(
            error.starts_with("invalid type")
                && error.contains("expected u32")
                && error.len() < 1000,
            "{error}"
        );
    }

    #[test]
    fn the_full_length_is_that_of_the_leaders_record() {
        let full = Record::from_json(GUIDE.as_bytes()).expect("pylm's record");
        let new = Record {
            leader: None,
            configured: false,
            ..full.clone()
        };
        assert_eq!(
            full.full_length(),
            GUIDE.len() + "65535".len() - "5555".len() + r#", "ready": false"#.len()
        );
        assert_eq!(new.full_length(), full.full_length());
    }

    #[test]
    fn ipv6_hosts_are_bracketed() {
        assert_eq!(endpoint("::1", 7), "tcp://[::1]:7");
        assert_eq!(endpoint("db.local", 7), "tcp://db.local:7");
    }
}
