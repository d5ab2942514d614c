//! Random histories of a mesh with changing leaders, against a model of etcd and of the servers.

use super::*;
use fastrand::Rng;
use std::collections::VecDeque;

mod outside;

const SERVERS: u128 = 6;
const TIMEOUT: Duration = Duration::from_secs(2);
const MISSES: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not started, or left.
    Out,
    Alive,
    /// It does not answer, though its lease is kept.
    Frozen,
    Dead,
}

/// The value of one key under `/servers/` in the model of etcd.
#[derive(Debug, Clone)]
struct Held {
    /// `None`: an invalid record.
    record: Option<Record>,
    modified: Revision,
}

#[derive(Debug)]
struct Server {
    state: State,
    life: u32,
}

/// A probe as the model sees it, to check removals.
#[derive(Debug)]
struct Sent {
    token: Token,
    at: Instant,
    refused: bool,
}

struct World {
    seed: u64,
    random: Rng,
    now: Instant,
    revision: i64,
    term: u128,
    registry: Registry,
    etcd: BTreeMap<Uuid, Held>,
    /// The keys under `/pipelines/`.
    published: BTreeMap<Uuid, Published>,
    servers: BTreeMap<Uuid, Server>,
    /// The events that the watch has not delivered yet.
    watch: VecDeque<Event>,
    /// The probes whose requests are in flight.
    asked: Vec<(Uuid, Token, Instant)>,
    writes: Vec<Action>,
    withdrawals: Vec<Action>,
    /// The server in question, the question, and the witness.
    questions: Vec<(Uuid, Token, Uuid)>,
    /// The records that get the leader's uuid.
    renaming: Vec<(Record, Revision)>,
    /// The probes since the last answer, or since the leader was paused.
    unanswered: BTreeMap<Uuid, Vec<Sent>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Desk::new().now;
        let server = |id| {
            (
                uuid(id),
                Server {
                    state: State::Out,
                    life: 0,
                },
            )
        };
        Self {
            seed,
            random: Rng::with_seed(seed),
            now,
            revision: 1,
            term: 1_000,
            registry: Registry::new(uuid(1_000), &ValidConfig::default(), [], seed, now),
            etcd: BTreeMap::new(),
            published: BTreeMap::new(),
            servers: (1..=SERVERS).map(server).collect(),
            watch: VecDeque::new(),
            asked: Vec::new(),
            writes: Vec::new(),
            withdrawals: Vec::new(),
            questions: Vec::new(),
            renaming: Vec::new(),
            unanswered: BTreeMap::new(),
        }
    }

    fn id(&mut self) -> Uuid {
        uuid(self.random.u128(1..=SERVERS))
    }

    fn state(&self, id: Uuid) -> State {
        self.servers[&id].state
    }

    fn set(&mut self, id: Uuid, state: State) {
        self.servers.get_mut(&id).expect("a server").state = state;
    }

    fn put(&mut self, id: Uuid, record: Option<Record>) -> Revision {
        self.revision += 1;
        let modified = Revision(self.revision);
        self.watch.push_back(match &record {
            Some(record) => Event::Registered {
                record: record.clone(),
                modified,
                lease: Some(lease(7)),
            },
            None => Event::Invalid {
                key: format!("/servers/{id}"),
                reason: "EOF".into(),
            },
        });
        self.etcd.insert(id, Held { record, modified });
        modified
    }

    fn delete(&mut self, id: Uuid, why: Option<(RemovedBy, &str)>) {
        let Some(held) = self.etcd.remove(&id) else {
            return;
        };
        // Its lease has expired, or the deletion of the record also deletes the published key.
        if held.record.is_some() {
            self.published.remove(&id);
        }
        self.revision += 1;
        let when = record(1, 0).when;
        self.watch.push_back(if held.record.is_some() {
            Event::Deleted {
                uuid: id,
                written: held.modified,
                departure: why.map(|(why, reason)| Tombstone {
                    why,
                    reason: reason.into(),
                    when,
                }),
                reset: false,
                lease_alive: false,
            }
        } else {
            Event::InvalidRemoved {
                key: format!("/servers/{id}"),
            }
        });
    }

    fn join(&mut self, id: Uuid) {
        let server = self.servers.get_mut(&id).expect("a server");
        server.state = State::Alive;
        server.life += 1;
        let mut fresh = record(id.as_u128(), server.life);
        fresh.set_ready(self.random.u8(0..4) > 0);
        self.published.remove(&id);
        self.put(id, Some(fresh));
    }

    /// Makes something happen to a server, to its record, or to the leader.
    fn disturb(&mut self) {
        let id = self.id();
        match (self.random.u8(0..16), self.state(id)) {
            // A new process has a new uuid: a dead one never returns.
            (0..4, State::Out | State::Alive) if !self.etcd.contains_key(&id) => self.join(id),
            (4, State::Alive) => {
                self.delete(id, Some((RemovedBy::Itself, "")));
                self.set(id, State::Out);
            }
            (5, State::Alive) => self.set(id, State::Frozen),
            (6, State::Frozen) => self.set(id, State::Alive),
            (7, State::Alive | State::Frozen) => {
                self.set(id, State::Dead);
                if self.random.bool() {
                    self.notify(Event::ProcessGone { uuid: id });
                }
            }
            (8, State::Dead | State::Frozen) => self.delete(id, None),
            (9, _) if self.etcd.contains_key(&id) => drop(self.put(id, None)),
            (10, _) => self.succeed(),
            (12, State::Alive) => self.delete_by_hand(id),
            (14..16, State::Alive) => self.change_readiness(id),
            (11, _) => self.now += Duration::from_millis(self.random.u64(0..20_000)),
            _ => {}
        }
    }

    /// The server rewrites its record, as it is now: one that says it is not ready, and deletes the
    /// published key; or one that is to be configured again.
    fn change_readiness(&mut self, id: Uuid) {
        let held = self.etcd.get(&id).and_then(|held| held.record.clone());
        if let Some(mut record) = held {
            record.set_ready(!record.is_ready());
            if record.is_ready() {
                record.configured = false;
            } else {
                self.published.remove(&id);
            }
            self.put(id, Some(record));
        }
    }

    /// Only the record is deleted, and the server registers again, or ends.
    fn delete_by_hand(&mut self, id: Uuid) {
        let Some(held) = self
            .etcd
            .get(&id)
            .filter(|held| held.record.is_some())
            .cloned()
        else {
            return;
        };
        self.etcd.remove(&id);
        self.revision += 1;
        let (written, departure) = (held.modified, None);
        self.watch.push_back(Event::Deleted {
            uuid: id,
            written,
            departure,
            reset: false,
            lease_alive: true,
        });
        self.set(id, State::Out);
    }

    /// Another leader takes over: the writes of the previous one fail from now on, and its
    /// probes are dropped.
    fn succeed(&mut self) {
        self.term += 1;
        self.registry = Registry::new(
            uuid(self.term),
            &ValidConfig::default(),
            self.published.values().cloned(),
            self.seed,
            self.now,
        );
        self.watch.clear();
        self.writes.clear();
        self.withdrawals.clear();
        self.questions.clear();
        self.renaming.clear();
        self.asked.clear();
        self.unanswered.clear();
        for (id, Held { record, modified }) in self.etcd.clone() {
            self.notify(match record {
                Some(record) => Event::Registered {
                    record,
                    modified,
                    lease: Some(lease(7)),
                },
                None => Event::Invalid {
                    key: format!("/servers/{id}"),
                    reason: "EOF".into(),
                },
            });
        }
        let actions = self.registry.listed();
        self.perform(actions);
    }

    fn notice_oversleep(&mut self) {
        if self.now > self.registry.deadline() + OVERSLEPT {
            self.unanswered.clear();
        }
    }

    fn notify(&mut self, event: Event) {
        self.notice_oversleep();
        if let Event::Registered { record, .. } = &event {
            let same = self
                .registry
                .servers
                .get(&record.uuid)
                .is_some_and(|old| old.record.when == record.when);
            if !same {
                self.unanswered.remove(&record.uuid);
            }
        }
        let actions = self.registry.handle(event, self.now);
        self.perform(actions);
    }

    fn tick(&mut self) {
        self.notice_oversleep();
        let actions = self.registry.tick(self.now);
        let deadline = self.registry.deadline();
        assert!(
            deadline > self.now && deadline <= self.now + Duration::from_secs(10),
            "seed {}",
            self.seed
        );
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            let target = match &action {
                // There is no other candidate here.
                Action::Log(_) | Action::Resign { .. } => continue,
                Action::Probe { uuid, token, .. } => {
                    self.asked.push((*uuid, *token, self.now));
                    let sent = Sent {
                        token: *token,
                        at: self.now,
                        refused: false,
                    };
                    self.unanswered.entry(*uuid).or_default().push(sent);
                    continue;
                }
                Action::Configure { record, .. } => record.uuid,
                Action::Remove(Removal { uuid, reason, .. }) => {
                    self.check_removal(*uuid, reason);
                    *uuid
                }
                Action::Withdraw { .. } => {
                    self.withdrawals.push(action);
                    continue;
                }
                Action::Ask {
                    uuid,
                    token,
                    witnesses,
                    ..
                } => {
                    self.questions.extend(
                        witnesses
                            .iter()
                            .map(|(witness, _)| (*uuid, *token, *witness)),
                    );
                    continue;
                }
            };
            assert!(
                !self.writes.iter().any(|write| written(write) == target),
                "two writes: seed {}",
                self.seed
            );
            self.writes.push(action);
        }
    }

    /// Invariant: no removal without the configured number of misses in a row, or proof.
    fn check_removal(&self, id: Uuid, reason: &str) {
        if reason == "its process is gone" {
            return assert_eq!(self.state(id), State::Dead, "seed {}", self.seed);
        }
        let sent = self.unanswered.get(&id).map_or(&[][..], Vec::as_slice);
        let misses = sent
            .iter()
            .filter(|sent| sent.refused || self.now >= sent.at + TIMEOUT)
            .count();
        assert!(
            misses >= MISSES,
            "{id} removed after {misses} misses: seed {}",
            self.seed
        );
    }

    /// Invariants that hold whenever the leader has received all events: what is published has a
    /// configured record that is ready, and each live server with such a record is published, unless
    /// it is being removed.
    fn check(&self) {
        if !self.watch.is_empty() {
            return;
        }
        let published: Vec<Uuid> = self
            .registry
            .reachable()
            .map(|record| record.uuid)
            .collect();
        for id in self.servers.keys() {
            let record = self.etcd.get(id).and_then(|held| held.record.as_ref());
            let wanted = record.is_some_and(|record| record.configured && record.is_ready());
            let writing = self.writes.iter().any(|write| written(write) == *id)
                || self.renaming.iter().any(|(record, _)| record.uuid == *id);
            if wanted && self.state(*id) == State::Alive && !writing {
                assert!(
                    published.contains(id),
                    "{id} is not published: seed {}",
                    self.seed
                );
            }
            assert!(
                wanted || !published.contains(id),
                "{id} is still published: seed {}",
                self.seed
            );
        }
    }

    fn storm(&mut self) {
        for _ in 0..30 {
            self.disturb();
            self.now += Duration::from_millis(self.random.u64(0..1_500));
            self.deliver(false);
            self.check();
            if self.now >= self.registry.deadline() && self.random.u8(0..4) > 0 {
                self.tick();
            }
        }
    }

    /// From here on there are no more failures: servers rejoin as they should, and
    /// forty seconds pass.
    fn calm(&mut self) {
        for id in (1..=SERVERS).map(uuid) {
            if self.etcd.get(&id).is_some_and(|held| held.record.is_none()) {
                self.delete(id, None);
            }
            if self.state(id) == State::Frozen && self.random.bool() {
                self.set(id, State::Alive);
            }
            if self.state(id) == State::Alive && !self.etcd.contains_key(&id) {
                self.join(id);
            }
        }
        let end = self.now + Duration::from_secs(40);
        while self.now < end {
            while !self.is_quiet() {
                self.deliver(true);
            }
            self.check();
            // A server that was removed and answers again rejoins by itself.
            let mute = self
                .servers
                .iter()
                .find(|(id, s)| s.state == State::Alive && !self.etcd.contains_key(*id));
            if let Some(id) = mute.map(|(id, _)| *id) {
                self.join(id);
                continue;
            }
            self.now = self.now.max(self.registry.deadline());
            self.tick();
        }
    }

    /// Returns whether no event for the leader is outstanding.
    fn is_quiet(&self) -> bool {
        let done = self.writes.is_empty()
            && self.withdrawals.is_empty()
            && self.questions.is_empty()
            && self.renaming.is_empty();
        done && self.watch.is_empty() && self.asked_can_answer()
    }

    fn asked_can_answer(&self) -> bool {
        self.asked
            .iter()
            .all(|(id, _, at)| self.state(*id) == State::Frozen && self.now < *at + 2 * TIMEOUT)
    }

    /// Checks the final state.
    fn verdict(&self) {
        let me = uuid(self.term);
        let registered = |id: &Uuid| self.etcd.contains_key(id);
        let silent = self
            .servers
            .iter()
            .filter(|(id, s)| registered(id) && s.state != State::Alive)
            .count();
        let alive = self
            .servers
            .values()
            .filter(|server| server.state == State::Alive)
            .count();
        // Then the leases decide, which expire for dead servers.
        let is_held = silent > 1 && silent > alive;
        for (id, server) in &self.servers {
            let record = self.etcd.get(id).and_then(|held| held.record.as_ref());
            let configured =
                record.is_some_and(|record| record.configured && record.leader == Some(me));
            let right = match server.state {
                State::Alive => configured,
                // One that was never configured may only have advertised a wrong address:
                // its lease decides.
                State::Out | State::Dead | State::Frozen => {
                    is_held || record.is_none_or(|record| !record.configured)
                }
            };
            assert!(right, "{id} {server:?} {record:?}: seed {}", self.seed);
            // Clients see exactly the configured servers that are ready.
            let wanted = |record: &&Record| record.configured && record.is_ready();
            let reachable = record.filter(wanted).map(Instance::of);
            let published = self
                .published
                .get(id)
                .map(|published| published.instance.clone());
            assert_eq!(published, reachable, "{id} {server:?}: seed {}", self.seed);
        }
        let known: Vec<_> = self.registry.servers.keys().collect();
        assert_eq!(
            known,
            self.etcd.keys().collect::<Vec<_>>(),
            "seed {}",
            self.seed
        );
        bounded::assert_nothing_is_left(&self.registry, self.seed);
    }
}

fn written(write: &Action) -> Uuid {
    match write {
        Action::Configure { record, .. } => record.uuid,
        Action::Remove(Removal { uuid, .. }) => *uuid,
        Action::Probe { .. }
        | Action::Withdraw { .. }
        | Action::Ask { .. }
        | Action::Resign { .. }
        | Action::Log(_) => unreachable!("no write"),
    }
}

#[test]
fn the_invariants_hold_in_fifteen_hundred_histories() {
    for seed in 0..1_500 {
        let mut world = World::new(seed);
        world.storm();
        world.calm();
        world.verdict();
    }
}
