//! The members of the mesh for display: the records and candidates in etcd, made into a list.

use super::election::Candidate;
use crate::reflector::KeyValue;
use crate::types::{
    keys::Keys,
    record::{InvalidRecord, Record},
};
use std::fmt;
use uuid::Uuid;

/// One key under `/servers/`: a server's record, or an invalid value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerEntry {
    /// The full key in etcd, prefix included.
    pub key: String,
    /// The last part of the key: the server's uuid, unless the entry is invalid. The argument of
    /// `Admin::remove`.
    pub name: String,
    /// The stored value.
    pub stored: Vec<u8>,
    /// The record, or why it is invalid.
    pub record: Result<Record, InvalidRecord>,
    /// The status of the server in the mesh.
    pub state: ServerStatus,
}

impl ServerEntry {
    /// Returns the entry of this key, prefix included, for tests of programs that show
    /// or judge entries.
    ///
    /// ```
    /// # use palm_proto::members as palm_peer;
    /// use palm_peer::{ServerEntry, ServerStatus};
    ///
    /// let entry = ServerEntry::new("/servers/x", "no record", ServerStatus::Broken);
    /// assert_eq!(entry.name, "x");
    /// assert!(entry.record.is_err());
    /// ```
    pub fn new(key: impl Into<String>, stored: impl Into<Vec<u8>>, state: ServerStatus) -> Self {
        let (key, stored) = (key.into(), stored.into());
        let name = key.rsplit('/').next().unwrap_or_default().to_owned();
        let record = Record::from_entry(&name, &stored);
        Self {
            key,
            name,
            stored,
            record,
            state,
        }
    }
}

/// The status of a server in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerStatus {
    /// It leads: it configures, probes and publishes all servers, including itself.
    Leader,
    /// The leader has reached it: clients can call it.
    Configured,
    /// The leader has reached it, and its program has said that it is not ready: clients do not call
    /// it. (A leader may be not ready as well: see [`Record::is_ready`].)
    NotReady,
    /// The leader has not reached it, or not yet.
    Waiting,
    /// The stored value is not a valid record. No server can be called by it.
    Broken,
}

/// Formats the status in lower case.
impl fmt::Display for ServerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Leader => "leader",
            Self::Configured => "configured",
            Self::NotReady => "not ready",
            Self::Waiting => "waiting",
            Self::Broken => "broken",
        })
    }
}

/// Returns all entries: servers sorted by name and uuid, then invalid values. `servers` and
/// `election` are the keys under these two prefixes.
#[must_use]
pub fn server_entries<'a>(
    keys: &Keys,
    servers: impl IntoIterator<Item = &'a KeyValue>,
    election: impl IntoIterator<Item = &'a KeyValue>,
) -> Vec<ServerEntry> {
    let leader = leader(keys, election);
    let mut entries: Vec<ServerEntry> = servers
        .into_iter()
        .filter_map(|kv| entry(keys, kv, leader))
        .collect();
    entries.sort_by(|a, b| order(a).cmp(&order(b)));
    entries
}

/// Returns the uuid of the candidate with the oldest election key.
fn leader<'a>(keys: &Keys, election: impl IntoIterator<Item = &'a KeyValue>) -> Option<Uuid> {
    let candidates = election
        .into_iter()
        .filter_map(|kv| Candidate::read(keys, kv));
    candidates.min_by_key(|candidate| candidate.created)?.uuid
}

/// Returns one entry; `None` when the key has another prefix.
fn entry(keys: &Keys, kv: &KeyValue, leader: Option<Uuid>) -> Option<ServerEntry> {
    let name = kv.key.strip_prefix(&keys.servers())?;
    let record = Record::from_entry(name, &kv.value);
    let state = match &record {
        Err(_) => ServerStatus::Broken,
        Ok(record) if Some(record.uuid) == leader => ServerStatus::Leader,
        Ok(record) if record.configured && !record.is_ready() => ServerStatus::NotReady,
        Ok(record) if record.configured => ServerStatus::Configured,
        Ok(_) => ServerStatus::Waiting,
    };
    Some(ServerEntry {
        key: kv.key.clone(),
        name: name.to_owned(),
        stored: kv.value.clone(),
        record,
        state,
    })
}

fn order(entry: &ServerEntry) -> (bool, &str, &str) {
    match &entry.record {
        Ok(record) => (false, &record.server, &entry.name),
        Err(_) => (true, "", &entry.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ids::{LeaseId, Revision};

    const UUIDS: [&str; 3] = [
        "10000000-0000-4000-8000-000000000000",
        "20000000-0000-4000-8000-000000000000",
        "30000000-0000-4000-8000-000000000000",
    ];

    fn kv(key: String, value: impl Into<Vec<u8>>, lease: i64, created: i64) -> KeyValue {
        let (created, modified) = (Revision(created), Revision(created));
        KeyValue {
            key,
            value: value.into(),
            lease: LeaseId::new(lease),
            created,
            modified,
        }
    }

    fn record(uuid: &str, server: &str, configured: bool) -> KeyValue {
        let json = format!(
            r#"{{"host": "::1", "pid": 1, "when": "2016-02-16T11:28:59.088608", "leader": null, "server": "{server}",
            "ports": [5], "kind": "registered", "functions": [], "uuid": "{uuid}", "configured": {configured}}}"#
        );
        kv(format!("/m/servers/{uuid}"), json, 1, 1)
    }

    fn states(servers: &[KeyValue], election: &[KeyValue]) -> Vec<(String, String)> {
        let entries = server_entries(&Keys::new("/m"), servers, election);
        entries
            .into_iter()
            .map(|entry| (entry.name, entry.state.to_string()))
            .collect()
    }

    fn named(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, state)| ((*name).to_owned(), (*state).to_owned()))
            .collect()
    }

    #[test]
    fn servers_are_sorted_by_name_with_invalid_records_last() {
        let [one, two, three] = UUIDS;
        let servers = [
            record(one, "text", true),
            record(three, "printf", false),
            record(two, "printf", true),
            kv("/m/servers/".into(), "", 0, 1),
            kv(
                format!("/m/servers/{}x", &one[1..]),
                record(one, "text", true).value,
                0,
                1,
            ),
            kv("/m/serversx".into(), "elsewhere", 0, 1),
        ];
        assert_eq!(
            states(&servers, &[]),
            named(&[
                (two, "configured"),
                (three, "waiting"),
                (one, "configured"),
                ("", "broken"),
                (&format!("{}x", &one[1..]), "broken"),
            ])
        );
    }

    #[test]
    fn the_oldest_candidate_leads_and_foreign_keys_do_not() {
        let [one, two, three] = UUIDS;
        let servers = [
            record(one, "a", true),
            record(two, "a", true),
            record(three, "a", false),
        ];
        let election = [
            kv("/m/election/1a".into(), two, 0x1a, 9),
            kv("/m/election/1b".into(), one, 0x1b, 7),
            kv("/m/election/1c".into(), three, 0x99, 5),
            kv("/m/election/mine".into(), three, 1, 3),
        ];
        let expected = named(&[(one, "leader"), (two, "configured"), (three, "waiting")]);
        assert_eq!(states(&servers, &election), expected);
        let unknown = [kv("/m/election/1".into(), "who?", 1, 1)];
        assert_eq!(states(&servers, &unknown)[0].1, "configured");
    }
}
