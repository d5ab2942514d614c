//! The registry: configures servers, probes them, and removes the dead.

mod event;
mod round;

pub use event::{Action, Event, Line, Token};

use crate::facts::{
    departure::{Departure, Why},
    ids::{LeaseId, Revision},
    record::Record,
    settings::Settings,
};
use log::Level;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long after an unanswered probe the next of its series is sent.
const RETRY: Duration = Duration::from_secs(1);
/// A timer that comes this late says that the leader itself stood still, and nothing about the servers.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// What the registry knows about one server.
#[derive(Debug)]
struct Entry {
    record: Record,
    modified: Revision,
    lease: Option<LeaseId>,
    /// Whether this leader has reached it since it registered.
    reached: bool,
    /// The probes under way and when each counts as missed.
    probes: Vec<(Token, Instant)>,
    /// How many probes of the series under way were sent, and how many of them missed.
    sent: u32,
    misses: u32,
    /// When to send the next probe of a series.
    retry_at: Option<Instant>,
    /// Why it could not be reached, when that has been logged.
    complaint: Option<String>,
    /// Whether a write to its record is under way.
    writing: bool,
    gone: bool,
}

impl Entry {
    /// Clients may reach it: some leader reached it, and it has not been found dead.
    fn is_published(&self) -> bool {
        self.record.configured && !self.gone
    }
}

/// The registry's memory, for one term of one leader. It trusts nothing that it did not check itself.
#[derive(Debug)]
pub struct Registry {
    me: Uuid,
    period: Duration,
    timeout: Duration,
    most_misses: u32,
    servers: BTreeMap<Uuid, Entry>,
    broken: BTreeMap<String, String>,
    next_token: u64,
    next_round: Instant,
    /// The number of servers that died in the round under way.
    round: Option<usize>,
    rounds: u64,
    actions: Vec<Action>,
}

impl Registry {
    /// The registry of the leader `me`, which knows of no server yet.
    #[must_use]
    pub fn new(me: Uuid, settings: &Settings, now: Instant) -> Self {
        Self {
            me,
            period: settings.probe_period,
            timeout: settings.probe_timeout,
            most_misses: settings.probe_misses,
            servers: BTreeMap::new(),
            broken: BTreeMap::new(),
            next_token: 0,
            next_round: now,
            round: None,
            rounds: 0,
            actions: Vec::new(),
        }
    }

    /// The records of the servers that clients may reach.
    pub fn published(&self) -> impl Iterator<Item = &Record> {
        self.servers.values().filter(|entry| entry.is_published()).map(|entry| &entry.record)
    }

    /// Where a server listens, while it is registered.
    #[must_use]
    pub fn endpoint(&self, uuid: Uuid) -> Option<String> {
        self.servers.get(&uuid).map(|entry| entry.record.endpoint())
    }

    /// Whether a probing round is under way, or a write to a record.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.round.is_some() || self.servers.values().any(|entry| entry.writing)
    }

    /// How many rounds were started.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// When [`Registry::tick`] is needed next.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let series = self
            .servers
            .values()
            .flat_map(|entry| entry.probes.iter().map(|(_, deadline)| *deadline).chain(entry.retry_at));
        let round = self.round.is_none().then_some(self.next_round);
        series.chain(round).min().unwrap_or(self.next_round)
    }

    /// Takes in what happened and says what to do, in order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Stands { record, modified, lease } => self.stands(record, modified, lease, now),
            Event::Broken { key, reason } => self.broken(key, reason),
            Event::Mended { key } => {
                self.broken.remove(&key);
            }
            Event::Deleted { uuid, written, departure, reset, lease_alive } => {
                self.deleted(uuid, written, departure.as_ref(), reset, lease_alive);
            }
            Event::Answered { uuid, token, digest } => self.answered(uuid, token, &digest),
            Event::Unanswered { uuid, token, reason } => self.unanswered(uuid, token, reason),
            Event::Gone { uuid } => self.gone(uuid),
            Event::Written { uuid, done } => self.written(uuid, done, now),
        }
        self.end_round_if_over(now);
        std::mem::take(&mut self.actions)
    }

    /// Lets time pass: sends what is due, counts what was missed, starts a round.
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        if now > self.deadline() + OVERSLEPT {
            self.forgive_pending_probes(now);
        }
        let uuids: Vec<Uuid> = self.servers.keys().copied().collect();
        for uuid in uuids {
            self.tick_server(uuid, now);
        }
        self.end_round_if_over(now);
        if self.round.is_none() && now >= self.next_round {
            self.start_round(now);
        }
        std::mem::take(&mut self.actions)
    }

    fn log(&mut self, level: Level, text: impl Into<String>) {
        self.actions.push(Action::Log(Line::new(level, text)));
    }

    fn stands(&mut self, record: Record, modified: Revision, lease: Option<LeaseId>, now: Instant) {
        let uuid = record.uuid;
        let key = self.broken.keys().find(|key| key.ends_with(&uuid.to_string())).cloned();
        self.broken.retain(|broken, _| Some(broken) != key.as_ref());
        let same_life = self.servers.get(&uuid).is_some_and(|old| {
            old.record.when == record.when && old.lease == lease && old.record.endpoint() == record.endpoint()
        });
        if let Some(old) = self.servers.get_mut(&uuid).filter(|_| same_life) {
            let was_configured = old.record.configured;
            old.modified = modified;
            old.record = record;
            old.gone = false;
            if old.record.configured && !was_configured && old.record.leader == Some(self.me) {
                self.log(Level::Info, format!("Server {uuid} configured"));
            }
            if self.servers.get(&uuid).is_some_and(|e| e.reached) {
                self.configure(uuid);
            }
            return;
        }
        let entry = Entry {
            record,
            modified,
            lease,
            reached: false,
            probes: Vec::new(),
            sent: 0,
            misses: 0,
            retry_at: None,
            complaint: None,
            writing: false,
            gone: false,
        };
        self.servers.insert(uuid, entry);
        self.probe(uuid, now);
    }

    fn broken(&mut self, key: String, reason: String) {
        if self.broken.get(&key) != Some(&reason) {
            self.log(Level::Warn, format!("{key} holds no record of a server, and is left alone: {reason}"));
            self.broken.insert(key, reason);
        }
    }

    fn deleted(
        &mut self,
        uuid: Uuid,
        written: Revision,
        departure: Option<&Departure>,
        reset: bool,
        lease_alive: bool,
    ) {
        let Some(entry) = self.servers.get(&uuid) else { return };
        // It may have registered anew while the reason was found out.
        if entry.modified <= written {
            self.servers.remove(&uuid);
        }
        let reason = match departure {
            _ if reset => "the mesh was reset",
            Some(Departure { why: Why::Itself, .. }) => "it killed itself",
            Some(Departure { why: Why::Registry, reason, .. }) => reason,
            Some(Departure { why: Why::Admin, .. }) => "an administrator removed it",
            None if lease_alive => "an administrator removed it",
            None => "its lease expired",
        };
        if let Some(dead) = self.round.as_mut().filter(|_| !reset) {
            *dead += 1;
        }
        let text = format!("Deleted server {uuid} because {reason}");
        self.log(Level::Info, text);
    }

    fn answered(&mut self, uuid: Uuid, token: Token, digest: &str) {
        let in_round = self.round.is_some();
        let Some(entry) = self.servers.get_mut(&uuid) else { return };
        if !entry.probes.iter().any(|(open, _)| *open == token) {
            return;
        }
        entry.probes.clear();
        entry.retry_at = None;
        entry.complaint = None;
        entry.reached = true;
        let record = &entry.record;
        let line = format!("{uuid}/{}/{} : b'{digest}'", record.server, record.kind);
        if in_round {
            self.log(Level::Info, line);
        }
        self.configure(uuid);
    }

    fn unanswered(&mut self, uuid: Uuid, token: Token, reason: String) {
        let most = self.most_misses;
        let Some(entry) = self.servers.get_mut(&uuid) else { return };
        let before = entry.probes.len();
        entry.probes.retain(|(open, _)| *open != token);
        if entry.probes.len() == before {
            return;
        }
        entry.misses += 1;
        let endpoint = entry.record.endpoint();
        let (misses, configured) = (entry.misses, entry.record.configured);
        if !configured {
            if entry.complaint.as_ref() != Some(&reason) {
                let text = format!("Server {uuid} stays unconfigured: it does not answer at {endpoint}: {reason}");
                entry.complaint = Some(reason);
                self.log(Level::Warn, text);
            }
        } else {
            self.log(Level::Warn, format!("Server {uuid} missed probe {misses} of {most} at {endpoint}: {reason}"));
            if misses >= most {
                self.remove(uuid, "it does not answer", false);
            }
        }
    }

    /// A process that was reached once, by this leader or by the one that configured it, is gone. One that never was may
    /// only have told a wrong address.
    fn gone(&mut self, uuid: Uuid) {
        if self.servers.get(&uuid).is_some_and(|entry| entry.reached || entry.record.configured) {
            self.remove(uuid, "its process is gone", true);
        }
    }

    fn remove(&mut self, uuid: Uuid, reason: &'static str, revoke: bool) {
        let Some(entry) = self.servers.get_mut(&uuid) else { return };
        entry.gone = true;
        entry.probes.clear();
        entry.retry_at = None;
        if !entry.writing {
            entry.writing = true;
            let revoke = entry.lease.filter(|_| revoke);
            self.actions.push(Action::Remove { uuid, modified: entry.modified, reason, revoke });
        }
    }

    fn configure(&mut self, uuid: Uuid) {
        let me = self.me;
        let Some(entry) = self.servers.get_mut(&uuid) else { return };
        let right = entry.record.configured && entry.record.leader == Some(me);
        if right || entry.writing || entry.gone {
            return;
        }
        entry.writing = true;
        let record = Record { configured: true, leader: Some(me), ..entry.record.clone() };
        self.actions.push(Action::Configure { record, modified: entry.modified });
    }

    /// A write that did not succeed met a change that the watch is about to tell, or an etcd in trouble: look again.
    fn written(&mut self, uuid: Uuid, done: bool, now: Instant) {
        let Some(entry) = self.servers.get_mut(&uuid) else { return };
        entry.writing = false;
        if !done {
            entry.gone = false;
            entry.sent = 0;
            entry.misses = 0;
            entry.retry_at = Some(now + RETRY);
        }
    }
}

#[cfg(test)]
mod tests;
