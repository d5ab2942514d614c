//! The registry: configures servers, probes them, and removes dead ones.

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
    event::{Action, Event, Line, Removal, Token},
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
/// A timer that fires this late means that the leader itself was paused, and says nothing
/// about the servers.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// A write in progress.
#[derive(Debug, Clone, Copy)]
struct Write {
    replaces: Revision,
    /// The reason of the removal, if it is one.
    removal: Option<&'static str>,
    /// Whether it publishes the server as well.
    publishes: bool,
}

/// What is known about a deleted record.
#[derive(Debug)]
struct Deletion {
    written: Revision,
    departure: Option<Tombstone>,
    reset: bool,
    lease_alive: bool,
}

/// The registry's state, for one term of one leader. It relies only on what it checked itself.
#[derive(Debug)]
pub struct Registry {
    me: Uuid,
    period: Duration,
    timeout: Duration,
    most_misses: u32,
    servers: BTreeMap<Uuid, Entry>,
    broken: BrokenRecords,
    /// Keyed by a running number, so that the total number of lines is bounded.
    broken_lines: LogThrottle<u64>,
    unsent_lines: LogThrottle<()>,
    /// The records with a write in progress, with the revision that it replaces. An element
    /// outlives its entry: a server may be deleted and registered again before the response comes.
    writing: BTreeMap<Uuid, Write>,
    /// The servers whose records name another leader, though this one has reached them and
    /// all else is right.
    unvouched: BTreeSet<Uuid>,
    /// What was published before this leader's term.
    found: BTreeMap<Uuid, Published>,
    /// The records that this leader removed, until the watch reports that: at most one for
    /// each known server.
    removed: BTreeMap<Uuid, (Revision, &'static str)>,
    /// The deletions of which it is not known yet whether they are this leader's own.
    unattributed: BTreeMap<Uuid, Deletion>,
    schedule: Schedule,
    random: fastrand::Rng,
    /// The servers that this leader did not reach in the current round although others did, or
    /// although it reached no other server.
    evidence: BTreeSet<Uuid>,
    /// Those of this round and the ones before that have not answered since.
    unreached: BTreeSet<Uuid>,
    /// The number of rounds with such servers, without a round in between in which all
    /// of them answered.
    rounds_alone: u32,
    held_lines: LogThrottle<()>,
    path_lines: LogThrottle<Uuid>,
    loopback_lines: LogThrottle<Uuid>,
    next_token: u64,
    next_round: Instant,
    /// The number of servers that died in the current round.
    round: Option<usize>,
    rounds: u64,
    /// Lines beyond this level are not created: there would be one for each server and round.
    verbosity: LevelFilter,
    actions: Vec<Action>,
}

impl Registry {
    /// Creates the registry of the leader `me`, with no servers yet and what it `found` published.
    /// `seed` selects the witnesses.
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
            found: found
                .into_iter()
                .map(|published| (published.instance.uuid, published))
                .collect(),
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

    /// Returns the records of the servers that clients may reach.
    pub fn reachable(&self) -> impl Iterator<Item = &Record> {
        self.servers
            .values()
            .filter(|entry| entry.is_reachable() && entry.record.is_ready())
            .map(|entry| &entry.record)
    }

    /// Returns the endpoint of a registered server.
    #[must_use]
    pub fn endpoint(&self, uuid: Uuid) -> Option<String> {
        self.servers.get(&uuid).map(|entry| entry.record.endpoint())
    }

    /// Returns whether a round, or a write to a record, is in progress.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.round.is_some() || !self.writing.is_empty()
    }

    /// Returns the number of rounds started.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Sets the level beyond which lines are not created. Default: all are.
    pub fn set_verbosity(&mut self, verbosity: LevelFilter) {
        self.verbosity = verbosity;
    }

    /// Returns when [`Registry::tick`] must be called next.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.schedule
            .first()
            .map_or(self.next_round, |due| due.min(self.next_round))
    }

    /// Handles an event. Returns what to do, in order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        self.reset_probes_after_pause(now);
        let about = event.about();
        match event {
            Event::Registered {
                record,
                modified,
                lease,
            } => self.stands(record, modified, lease, now),
            Event::Invalid { key, reason } => self.broken(key, reason, now),
            Event::InvalidRemoved { key } => self.broken.remove(key),
            Event::Deleted {
                uuid,
                written,
                departure,
                reset,
                lease_alive,
            } => {
                self.deleted(
                    uuid,
                    Deletion {
                        written,
                        departure,
                        reset,
                        lease_alive,
                    },
                );
            }
            Event::ProbeOk {
                uuid,
                token,
                digest,
            } => self.answered(uuid, token, &digest, now),
            Event::ProbeFailed {
                uuid,
                token,
                reason,
            } => self.unanswered(uuid, token, reason, now),
            Event::Unsent {
                uuid,
                token,
                reason,
            } => self.unsent(uuid, token, &reason, now),
            Event::ProcessGone { uuid } => self.gone(uuid, now),
            Event::Testified {
                uuid,
                token,
                witness,
                testimony,
            } => {
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

    /// Handles the passing of time: sends due probes, counts misses, starts rounds.
    /// Returns what to do.
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
        if let Some(old) = self
            .servers
            .get_mut(&uuid)
            .filter(|old| old.is_same_incarnation(&record, lease))
        {
            let (was_configured, was_ready) = (old.record.configured, old.record.is_ready());
            old.rewrite(record, modified);
            let is_ready = old.record.is_ready();
            if !was_configured && old.record.configured && old.record.leader == Some(self.me) {
                self.log(Level::Info, format!("Server {uuid} configured"));
            }
            if was_ready && !is_ready {
                let text = format!("Server {uuid} is not ready: clients do not call it");
                self.log(Level::Info, text);
            }
            self.reconcile(uuid);
            return;
        }
        let right = Published {
            instance: Instance::of(&record),
            lease,
        };
        let published = match self.found.remove(&uuid) {
            Some(found) => record.is_ready() && found == right,
            None => !record.is_ready(),
        };
        self.forget(uuid);
        self.servers
            .insert(uuid, Entry::new(record, modified, lease, published));
        self.join_round(uuid, now);
        self.probe(uuid, now);
    }

    fn deleted(&mut self, uuid: Uuid, deletion: Deletion) {
        let Some(entry) = self.servers.get(&uuid) else {
            return;
        };
        let written = deletion.written;
        let server = entry.record.server.clone();
        // It may have registered again while the reason was being read.
        if entry.modified <= written {
            self.forget(uuid);
        }
        // Tools other than PALM delete only the record.
        if deletion.departure.is_none() && deletion.lease_alive && !deletion.reset {
            self.actions.push(Action::Withdraw { uuid, server });
        }
        // The reason of its own removals is known: the tombstone may be gone by now, or belong to
        // another removal.
        let own = self
            .removed
            .remove(&uuid)
            .filter(|(replaced, _)| *replaced == written);
        if self
            .writing
            .get(&uuid)
            .is_some_and(|write| write.removal.is_some() && write.replaces == written)
        {
            self.unattributed.insert(uuid, deletion);
            return;
        }
        self.log_deletion(uuid, &deletion, own.map(|(_, reason)| reason));
    }

    fn log_deletion(&mut self, uuid: Uuid, deletion: &Deletion, own: Option<&'static str>) {
        let reason = match (own, &deletion.departure) {
            (Some(reason), _) => reason,
            _ if deletion.reset => "the mesh was reset",
            (
                _,
                Some(Tombstone {
                    why: RemovedBy::Itself,
                    ..
                }),
            ) => "it killed itself",
            (
                _,
                Some(Tombstone {
                    why: RemovedBy::Registry,
                    reason,
                    ..
                }),
            ) => reason,
            (
                _,
                Some(Tombstone {
                    why: RemovedBy::Admin,
                    ..
                }),
            ) => REMOVED_BY_ADMIN,
            (_, None) if deletion.lease_alive => REMOVED_BY_ADMIN,
            (_, None) => "its lease expired",
        };
        if let Some(dead) = &mut self.round
            && (own.is_some() || !deletion.reset)
        {
            *dead += 1;
        }
        self.log(
            Level::Info,
            format!("Deleted server {uuid} because {reason}"),
        );
    }

    fn remove(&mut self, uuid: Uuid, charge: Charge) {
        let Some(entry) = self.servers.get_mut(&uuid) else {
            return;
        };
        entry.doom = Some(charge);
        entry.charge = None;
        entry.turn_at = None;
        entry.end_series();
        self.reconcile(uuid);
    }

    /// Requests the write that the record needs, if it needs one and none is in progress.
    fn reconcile(&mut self, uuid: Uuid) {
        let me = self.me;
        let Some(entry) = self.servers.get(&uuid).filter(|entry| !entry.outdated) else {
            return;
        };
        let (record, modified) = (&entry.record, entry.modified);
        let mut removal = None;
        let action = match entry.doom {
            _ if self.writing.contains_key(&uuid) => return,
            Some(Charge { reason, gone }) => {
                removal = Some(reason);
                let server = record.server.clone();
                Action::Remove(Removal {
                    uuid,
                    server,
                    modified,
                    reason,
                    lease: entry.lease,
                    revoke: gone,
                })
            }
            None if entry.answered_at.is_some() && !(record.configured && entry.is_published()) => {
                let record = Record {
                    configured: true,
                    leader: Some(me),
                    ..record.clone()
                };
                Action::Configure {
                    record,
                    modified,
                    lease: entry.lease,
                }
            }
            None => {
                if self.is_unvouched(uuid) {
                    self.unvouched.insert(uuid);
                }
                return;
            }
        };
        let publishes = matches!(action, Action::Configure { .. });
        self.writing.insert(
            uuid,
            Write {
                replaces: modified,
                removal,
                publishes,
            },
        );
        self.actions.push(action);
    }

    /// Handles the end of a write. One that failed met a change that the watch will report, or an
    /// etcd outage: probe again.
    fn written(&mut self, uuid: Uuid, stands: Option<Revision>, now: Instant) {
        let write = self.writing.remove(&uuid);
        let removal = match write {
            Some(Write {
                replaces,
                removal: Some(reason),
                ..
            }) if stands.is_some() => Some((replaces, reason)),
            _ => None,
        };
        match (self.unattributed.remove(&uuid), removal) {
            (Some(deletion), removal) => {
                self.log_deletion(uuid, &deletion, removal.map(|(_, reason)| reason));
            }
            // Otherwise the watch has reported its deletion already.
            (None, Some(removal)) if self.servers.contains_key(&uuid) => {
                self.removed.insert(uuid, removal);
            }
            (None, _) => {}
        }
        let replaced = write.map(|write| write.replaces);
        let Some(entry) = self.servers.get_mut(&uuid) else {
            return;
        };
        if write.is_some_and(|write| write.publishes) {
            entry.published = stands.or(entry.published);
        }
        if stands.is_none() {
            entry.doom = None;
            entry.sent = 0;
            entry.misses = 0;
            // An etcd that keeps failing must not cause all servers to be probed each second.
            entry.retry_at =
                Some(now + backoff(entry.failed_writes, RETRY, self.period.max(RETRY), 0.0));
            entry.failed_writes += 1;
        } else if replaced == Some(entry.modified) {
            entry.outdated = true;
            entry.failed_writes = 0;
        } else {
            // The watch was faster than the response.
            self.reconcile(uuid);
        }
    }
}

#[cfg(test)]
mod tests;
