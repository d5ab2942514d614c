//! The history of all keys under a prefix, with the time at which the test received each event.

use palm_tests::{Etcd, Mark, Process};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// One change of one key.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// The key without the prefix.
    pub key: String,
    /// Whether the key is gone.
    pub deleted: bool,
    /// What was put.
    pub value: String,
    /// When it was changed, in etcd's count.
    pub revision: u64,
    /// When it was created, in etcd's count.
    pub created: u64,
    /// The lease that it is on.
    pub lease: u64,
}

impl Event {
    /// What was put, as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.value).unwrap_or_default()
    }
}

/// A watch by etcdctl, from the first revision on.
pub(crate) struct History {
    watch: Process,
    prefix: String,
}

impl History {
    /// Watches `prefix`; as `user`, unless that is empty.
    pub(crate) fn follow(etcd: &Etcd, prefix: &str, user: &str) -> Self {
        Self::follow_at(&etcd.endpoint(), etcd.etcdctl_flags(), prefix, user)
    }

    /// As [`History::follow`], of an etcd at this URL, for which etcdctl needs these flags.
    pub(crate) fn follow_at(endpoint: &str, flags: &[String], prefix: &str, user: &str) -> Self {
        let watch = Process::builder("etcdctl")
            .args([
                "watch",
                "--prefix",
                &format!("{prefix}/"),
                "--rev=1",
                "--write-out=json",
            ])
            .args(flags)
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", endpoint)
            .env("ETCDCTL_USER", user)
            .start();
        Self {
            watch,
            prefix: prefix.to_owned(),
        }
    }

    /// The end of it so far.
    pub(crate) fn mark(&self) -> Mark {
        self.watch.mark()
    }

    /// All events so far, in order.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.watch
            .lines()
            .iter()
            .flat_map(|line| self.read(line))
            .collect()
    }

    /// Those behind `mark`.
    pub(crate) fn events_after(&self, mark: Mark) -> Vec<Event> {
        self.watch
            .lines_after(mark)
            .iter()
            .flat_map(|line| self.read(line))
            .collect()
    }

    /// What etcd holds now, by key.
    pub(crate) fn state(&self) -> BTreeMap<String, Event> {
        let mut state = BTreeMap::new();
        for event in self.events() {
            if event.deleted {
                state.remove(&event.key);
            } else {
                state.insert(event.key.clone(), event);
            }
        }
        state
    }

    /// When the first event behind `mark` came that `wanted` accepts.
    #[track_caller]
    pub(crate) fn await_event(
        &self,
        mark: Mark,
        wanted: impl Fn(&Event) -> bool,
        within: Duration,
    ) -> Instant {
        self.watch
            .wait_for_line_after(mark, |line| self.read(line).iter().any(&wanted), within)
            .1
    }

    /// One line has the events of one or more revisions.
    fn read(&self, line: &str) -> Vec<Event> {
        // etcdctl's lines on stderr are not JSON.
        let Ok(response) = serde_json::from_str::<Value>(line) else {
            return Vec::new();
        };
        response["Events"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|event| self.event(event))
            .collect()
    }

    fn event(&self, event: &Value) -> Event {
        let kv = &event["kv"];
        let text = |name: &str| kv[name].as_str().map(decode).unwrap_or_default();
        let number = |name: &str| kv[name].as_u64().unwrap_or_default();
        Event {
            key: text("key")
                .strip_prefix(&self.prefix)
                .expect("a key under the prefix")
                .to_owned(),
            deleted: event["type"] == 1,
            value: text("value"),
            revision: number("mod_revision"),
            created: number("create_revision"),
            lease: number("lease"),
        }
    }
}

/// Base 64, in which etcdctl's JSON has keys and values.
fn decode(text: &str) -> String {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for c in text.bytes().filter(|c| *c != b'=') {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
