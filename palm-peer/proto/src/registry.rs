//! The registry: configures servers, probes them, and removes the dead.

mod broken;
mod entry;
mod event;
mod round;
mod schedule;
mod suspicion;
mod takeover;

use self::{broken::BrokenRecords, entry::Entry, schedule::Schedule, suspicion::Charge};
pub use self::{
    entry::Published,
    event::{Action, Event, Line, Token},
    round::MAX_LISTED,
    suspicion::Testimony,
};

use super::backoff::backoff;
use crate::limits::log_throttle::LogThrottle;
use crate::{
    config::Config,
    types::{
        ids::{LeaseId, Revision},
        instance::Instance,
        record::Record,
        tombstone::{REMOVED_BY_ADMIN, RemovedBy, Tombstone},
    },
};
use log::{Level, LevelFilter};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long after an unanswered probe the next of its series is sent.
const RETRY: Duration = Duration::from_secs(1);
/// A timer that comes this late says that the leader itself stood still, and nothing about the servers.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// A write that is under way.
#[derive(Debug, Clone, Copy)]
struct Write {
    replaces: Revision,
    /// Why the record is removed, if it is.
    removal: Option<&'static str>,
    /// Whether it publishes the server as well.
    publishes: bool,
}

/// What is known of a record that is gone.
#[derive(Debug)]
struct Deletion {
    written: Revision,
    departure: Option<Tombstone>,
    reset: bool,
    lease_alive: bool,
}

/// The registry's memory, for one term of one leader. It trusts nothing that it did not check itself.
#[derive(Debug)]
pub struct Registry {
    me: Uuid,
    period: Duration,
    timeout: Duration,
    most_misses: u32,
    servers: BTreeMap<Uuid, Entry>,
    broken: BrokenRecords,
    /// Each line about such has a number of its own, so that their total is bounded.
    broken_lines: LogThrottle<u64>,
    unsent_lines: LogThrottle<()>,
    /// The records to which a write is under way, with the revision that it replaces. Outlives the entry: a server may
    /// be deleted and back before the answer comes.
    writing: BTreeMap<Uuid, Write>,
    /// The servers whose records name another leader, though this one has reached them and nothing else is wrong.
    unvouched: BTreeSet<Uuid>,
    /// What was published before this leader's term.
    found: BTreeMap<Uuid, Published>,
    /// The records that this leader removed, until the watch tells so: one for each server that is known, at most.
    removed: BTreeMap<Uuid, (Revision, &'static str)>,
    /// Those deletions of which it is not known yet whether they are this leader's own.
    unattributed: BTreeMap<Uuid, Deletion>,
    schedule: Schedule,
    random: fastrand::Rng,
    /// The servers that this leader did not reach in the round under way, though others do, or though it reaches nobody else.
    evidence: BTreeSet<Uuid>,
    /// Those of this round and the ones before that have not answered since.
    unreached: BTreeSet<Uuid>,
    /// In how many rounds there were such servers, without one between in which all of them answered.
    rounds_alone: u32,
    held_lines: LogThrottle<()>,
    path_lines: LogThrottle<Uuid>,
    loopback_lines: LogThrottle<Uuid>,
    next_token: u64,
    next_round: Instant,
    /// The number of servers that died in the round under way.
    round: Option<usize>,
    rounds: u64,
    /// Lines beyond this level are not written: there is one for each server and round.
    verbosity: LevelFilter,
    actions: Vec<Action>,
}

impl Registry {
    /// The registry of the leader `me`, which knows of no server yet, but of what was `found` published. `seed` decides which servers are asked
    /// about others.
    #[must_use]
    pub fn new(
        me: Uuid,
        settings: &Config,
        found: impl IntoIterator<Item = Published>,
        seed: u64,
        now: Instant,
    ) -> Self {
        Self {
            me,
            period: settings.probe_period,
            timeout: settings.probe_timeout,
            most_misses: settings.probe_misses,
            servers: BTreeMap::new(),
            broken: BrokenRecords::default(),
            broken_lines: LogThrottle::default(),
            unsent_lines: LogThrottle::default(),
            writing: BTreeMap::new(),
            unvouched: BTreeSet::new(),
            found: found.into_iter().map(|published| (published.instance.uuid, published)).collect(),
            removed: BTreeMap::new(),
            unattributed: BTreeMap::new(),
            schedule: Schedule::default(),
            random: fastrand::Rng::with_seed(seed),
            evidence: BTreeSet::new(),
            unreached: BTreeSet::new(),
            rounds_alone: 0,
            held_lines: LogThrottle::default(),
            path_lines: LogThrottle::default(),
            loopback_lines: LogThrottle::default(),
            next_token: 0,
            next_round: now,
            round: None,
            rounds: 0,
            verbosity: LevelFilter::Trace,
            actions: Vec::new(),
        }
    }

    /// The records of the servers that clients may reach.
    pub fn reachable(&self) -> impl Iterator<Item = &Record> {
        self.servers.values().filter(|entry| entry.is_reachable()).map(|entry| &entry.record)
    }

    /// Where a server listens, while it is registered.
    #[must_use]
    pub fn endpoint(&self, uuid: Uuid) -> Option<String> {
        self.servers.get(&uuid).map(|entry| entry.record.endpoint())
    }

    /// Whether a probing round is under way, or a write to a record.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.round.is_some() || !self.writing.is_empty()
    }

    /// How many rounds were started.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Says which lines are of use to anybody: all, if nothing is said.
    pub fn set_verbosity(&mut self, verbosity: LevelFilter) {
        self.verbosity = verbosity;
    }

    /// When [`Registry::tick`] is needed next.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.schedule.first().map_or(self.next_round, |due| due.min(self.next_round))
    }

    /// Takes in what happened and says what to do, in order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        self.reset_probes_after_pause(now);
        let about = event.about();
        match event {
            Event::Registered { record, modified, lease } => self.stands(record, modified, lease, now),
            Event::Invalid { key, reason } => self.broken(key, reason, now),
            Event::InvalidRemoved { key } => self.broken.remove(key),
            Event::Deleted { uuid, written, departure, reset, lease_alive } => {
                self.deleted(uuid, Deletion { written, departure, reset, lease_alive });
            }
            Event::ProbeOk { uuid, token, digest } => self.answered(uuid, token, &digest, now),
            Event::ProbeFailed { uuid, token, reason } => self.unanswered(uuid, token, reason, now),
            Event::Unsent { uuid, token, reason } => self.unsent(uuid, token, &reason, now),
            Event::ProcessGone { uuid } => self.gone(uuid, now),
            Event::Testified { uuid, token, witness, testimony } => {
                self.testified(uuid, token, (witness, testimony), now);
            }
            Event::WriteDone { uuid, stands } => self.written(uuid, stands, now),
        }
        if let Some(uuid) = about {
            self.schedule(uuid);
        }
        self.run_due(now);
        self.end_round_if_over(now);
        std::mem::take(&mut self.actions)
    }

    /// Lets time pass: sends what is due, counts what was missed, starts a round.
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        self.reset_probes_after_pause(now);
        self.run_due(now);
        self.end_round_if_over(now);
        if self.round.is_none() && now >= self.next_round {
            self.start_round(now);
            self.run_due(now);
        }
        std::mem::take(&mut self.actions)
    }

    fn log(&mut self, level: Level, text: impl Into<String>) {
        self.actions.push(Action::Log(Line::new(level, text)));
    }

    fn stands(&mut self, record: Record, modified: Revision, lease: Option<LeaseId>, now: Instant) {
        let uuid = record.uuid;
        self.broken.remove_of(uuid);
        if let Some(old) = self.servers.get_mut(&uuid).filter(|old| old.is_same_incarnation(&record, lease)) {
            let was_configured = old.record.configured;
            old.rewrite(record, modified);
            if !was_configured && old.record.configured && old.record.leader == Some(self.me) {
                self.log(Level::Info, format!("Server {uuid} configured"));
            }
            self.reconcile(uuid);
            return;
        }
        let right = Published { instance: Instance::of(&record), lease };
        let published = self.found.remove(&uuid).is_some_and(|found| found == right);
        self.forget(uuid);
        self.servers.insert(uuid, Entry::new(record, modified, lease, published));
        self.join_round(uuid, now);
        self.probe(uuid, now);
    }

    fn deleted(&mut self, uuid: Uuid, deletion: Deletion) {
        let Some(entry) = self.servers.get(&uuid) else { return };
        let written = deletion.written;
        let server = entry.record.server.clone();
        // It may have registered anew while the reason was found out.
        if entry.modified <= written {
            self.forget(uuid);
        }
        // Others than PALM delete the record alone.
        if deletion.departure.is_none() && deletion.lease_alive && !deletion.reset {
            self.actions.push(Action::Withdraw { uuid, server });
        }
        // What this leader did itself, it need not find out: the note may be gone by now, or speak of another time.
        let own = self.removed.remove(&uuid).filter(|(replaced, _)| *replaced == written);
        if self.writing.get(&uuid).is_some_and(|write| write.removal.is_some() && write.replaces == written) {
            self.unattributed.insert(uuid, deletion);
            return;
        }
        self.log_deletion(uuid, &deletion, own.map(|(_, reason)| reason));
    }

    fn log_deletion(&mut self, uuid: Uuid, deletion: &Deletion, own: Option<&'static str>) {
        let reason = match (own, &deletion.departure) {
            (Some(reason), _) => reason,
            _ if deletion.reset => "the mesh was reset",
            (_, Some(Tombstone { why: RemovedBy::Itself, .. })) => "it killed itself",
            (_, Some(Tombstone { why: RemovedBy::Registry, reason, .. })) => reason,
            (_, Some(Tombstone { why: RemovedBy::Admin, .. })) => REMOVED_BY_ADMIN,
            (_, None) if deletion.lease_alive => REMOVED_BY_ADMIN,
            (_, None) => "its lease expired",
        };
        if let Some(dead) = self.round.as_mut().filter(|_| own.is_some() || !deletion.reset) {
            *dead += 1;
        }
        self.log(Level::Info, format!("Deleted server {uuid} because {reason}"));
    }

    fn remove(&mut self, uuid: Uuid, charge: Charge) {
        let Some(entry) = self.servers.get_mut(&uuid) else { return };
        entry.doom = Some(charge);
        (entry.charge, entry.turn_at) = (None, None);
        entry.end_series();
        self.reconcile(uuid);
    }

    /// Asks for the write that the record needs, if it needs one and none is under way.
    fn reconcile(&mut self, uuid: Uuid) {
        let me = self.me;
        let Some(entry) = self.servers.get(&uuid).filter(|entry| !entry.outdated) else { return };
        let (record, modified) = (&entry.record, entry.modified);
        let mut removal = None;
        let action = match entry.doom {
            _ if self.writing.contains_key(&uuid) => return,
            Some(Charge { reason, gone }) => {
                removal = Some(reason);
                let server = record.server.clone();
                Action::Remove { uuid, server, modified, reason, lease: entry.lease, revoke: gone }
            }
            None if entry.answered_at.is_some() && !(record.configured && entry.is_published()) => {
                let record = Record { configured: true, leader: Some(me), ..record.clone() };
                Action::Configure { record, modified, lease: entry.lease }
            }
            None => {
                if self.is_unvouched(uuid) {
                    self.unvouched.insert(uuid);
                }
                return;
            }
        };
        let publishes = matches!(action, Action::Configure { .. });
        self.writing.insert(uuid, Write { replaces: modified, removal, publishes });
        self.actions.push(action);
    }

    /// A write that did not succeed met a change that the watch is about to tell, or an etcd in trouble: look again.
    fn written(&mut self, uuid: Uuid, stands: Option<Revision>, now: Instant) {
        let write = self.writing.remove(&uuid);
        let removal = write.and_then(|write| Some((write.replaces, write.removal?))).filter(|_| stands.is_some());
        match (self.unattributed.remove(&uuid), removal) {
            (Some(deletion), removal) => self.log_deletion(uuid, &deletion, removal.map(|(_, reason)| reason)),
            // Else its deletion has been told already.
            (None, Some(removal)) if self.servers.contains_key(&uuid) => {
                self.removed.insert(uuid, removal);
            }
            (None, _) => {}
        }
        let replaced = write.map(|write| write.replaces);
        let Some(entry) = self.servers.get_mut(&uuid) else { return };
        if write.is_some_and(|write| write.publishes) {
            entry.published = stands.or(entry.published);
        }
        if stands.is_none() {
            entry.doom = None;
            (entry.sent, entry.misses) = (0, 0);
            // An etcd that goes on refusing shall not have all servers probed each second.
            entry.retry_at = Some(now + backoff(entry.failed_writes, RETRY, self.period.max(RETRY), 0.0));
            entry.failed_writes += 1;
        } else if replaced == Some(entry.modified) {
            (entry.outdated, entry.failed_writes) = (true, 0);
        } else {
            // The watch was quicker than the answer.
            self.reconcile(uuid);
        }
    }
}

#[cfg(test)]
mod tests;
