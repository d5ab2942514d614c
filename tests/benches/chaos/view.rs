//! The state of the mesh in etcd, as reported by all of its members.

use crate::history::{Event, History};
use palm_tests::Mark;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// A key that shows that the watches work.
pub(crate) const BEAT: &str = "/beat";

fn follow(member: &str, prefix: &str) -> (History, Mark) {
    let history = History::follow_at(member, &[], prefix, "");
    let mark = history.mark();
    (history, mark)
}

/// A server's record was deleted.
#[derive(Debug, Clone)]
pub(crate) struct Deletion {
    pub uuid: String,
    pub at: Instant,
    /// The reason of the leader that removed it; `None` when its lease ended.
    pub reason: Option<String>,
}

/// What lies under the prefix, and what has happened to it.
pub(crate) struct View {
    members: Vec<String>,
    prefix: String,
    histories: Vec<(History, Mark)>,
    /// The latest beat that each member reported.
    beats: Vec<String>,
    seen: BTreeSet<(u64, String)>,
    state: BTreeMap<String, Event>,
    pub deletions: Vec<Deletion>,
    leader: Option<String>,
    /// How often another candidate was the oldest.
    pub leaders: usize,
}

impl View {
    /// Watches etcd at each of its members: a member that is cut off from the others
    /// reports nothing.
    pub(crate) fn follow(members: &[String], prefix: &str) -> Self {
        Self {
            members: members.to_vec(),
            prefix: prefix.to_owned(),
            histories: members
                .iter()
                .map(|member| follow(member, prefix))
                .collect(),
            beats: vec![String::new(); members.len()],
            seen: BTreeSet::new(),
            state: BTreeMap::new(),
            deletions: Vec::new(),
            leader: None,
            leaders: 0,
        }
    }

    /// Handles the events since the last call.
    pub(crate) fn update(&mut self) {
        let now = Instant::now();
        for at in 0..self.histories.len() {
            let (history, mark) = &mut self.histories[at];
            let since = std::mem::replace(mark, history.mark());
            let mut events = history.events_after(since);
            if let Some(beat) = events.iter().rfind(|event| event.key == BEAT) {
                self.beats[at].clone_from(&beat.value);
            }
            events.retain(|event| self.seen.insert((event.revision, event.key.clone())));
            self.take_in(events, now);
        }
        let leader = self.leading().map(|event| event.value.clone());
        if leader.is_some() && leader != self.leader {
            self.leader = leader;
            self.leaders += 1;
        }
    }

    /// Returns whether each member's watch has reported this beat.
    pub(crate) fn has_heard(&self, beat: &str) -> bool {
        self.beats.iter().all(|heard| heard == beat)
    }

    /// Watches those members again whose watch has not reported this beat: a watch may not notice
    /// that its connection is dead, and unreported events look as if they had not happened. Returns
    /// how many these are.
    pub(crate) fn follow_again(&mut self, beat: &str) -> usize {
        let deaf: Vec<usize> = (0..self.beats.len())
            .filter(|at| self.beats[*at] != beat)
            .collect();
        for at in &deaf {
            self.histories[*at] = follow(&self.members[*at], &self.prefix);
        }
        deaf.len()
    }

    fn take_in(&mut self, events: Vec<Event>, now: Instant) {
        for event in &events {
            let Some(uuid) = event
                .key
                .strip_prefix("/servers/")
                .filter(|_| event.deleted)
            else {
                continue;
            };
            let tombstone = |other: &&Event| {
                other.revision == event.revision && other.key == format!("/departed/{uuid}")
            };
            let tombstone = events.iter().find(tombstone).map(Event::json);
            let reason =
                tombstone.and_then(|tombstone| Some(tombstone["reason"].as_str()?.to_owned()));
            self.deletions.push(Deletion {
                uuid: uuid.to_owned(),
                at: now,
                reason,
            });
        }
        for event in events {
            // Another member may have reported a later event.
            if self
                .state
                .get(&event.key)
                .is_some_and(|known| known.revision > event.revision)
            {
                continue;
            }
            self.state.insert(event.key.clone(), event);
        }
    }

    fn standing(&self, key: &str) -> Option<&Event> {
        self.state.get(key).filter(|event| !event.deleted)
    }

    fn leading(&self) -> Option<&Event> {
        let candidates = self
            .state
            .iter()
            .filter(|(key, event)| key.starts_with("/election/") && !event.deleted);
        candidates
            .map(|(_, event)| event)
            .min_by_key(|event| event.created)
    }

    /// The server that leads.
    pub(crate) fn leader(&self) -> Option<&str> {
        self.leading().map(|event| event.value.as_str())
    }

    /// Returns the differences from a healthy mesh of these servers.
    pub(crate) fn complaint(&self, servers: &[String]) -> Option<String> {
        let Some(leader) = self.leader() else {
            return Some("nobody leads".into());
        };
        servers.iter().find_map(|uuid| {
            let record = self.standing(&format!("/servers/{uuid}")).map(Event::json);
            let Some(record) = record else {
                return Some(format!("{uuid} is not registered"));
            };
            if record["configured"] != true || record["leader"] != leader {
                return Some(format!("{uuid} is not vouched for by {leader}: {record}"));
            }
            let is_key = |key: &str| key.starts_with("/pipelines/") && key.ends_with(uuid.as_str());
            let published = self
                .state
                .iter()
                .any(|(key, event)| is_key(key) && !event.deleted);
            (!published).then(|| format!("{uuid} is not published"))
        })
    }
}
