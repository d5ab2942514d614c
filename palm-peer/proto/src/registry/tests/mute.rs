//! Servers that turn mute in meshes of up to thousands: each is removed within the bound of
//! docs/reliability.md, whenever it turns mute.

use super::*;
use fastrand::Rng;

/// The bound from its last answer to its removal, with the default settings.
const BOUND: Duration = Duration::from_secs(15);
/// How late the leader's timer may be (`io/timer.rs`).
const GRAIN: Duration = Duration::from_millis(50);
/// The longest time to an answer.
const LATENCY: Duration = Duration::from_millis(50);
/// How long a witness tries to reach a silent server.
const WITNESS: Duration = Duration::from_millis(1400);
/// How many servers turn mute in each mesh at most: never so many that the leader would
/// suspect the network.
const MAX_SILENT: usize = 40;

/// A leader and its mesh, with a simulated clock. Servers answer, and etcd writes, at once
/// or a little later.
struct Mesh {
    seed: u64,
    random: Rng,
    now: Instant,
    registry: Registry,
    revision: i64,
    /// The events that will reach the leader, by time.
    coming: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    records: BTreeMap<Uuid, Record>,
    /// Since when servers are mute.
    silent: BTreeMap<Uuid, Instant>,
    /// The slow servers: they never answer the first probe of a series in time.
    slow: BTreeSet<Uuid>,
    longest: Duration,
}

impl Mesh {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            seed,
            random: Rng::with_seed(seed),
            now,
            registry: Registry::new(leader(), &ValidConfig::default(), [], seed, now),
            revision: 100,
            coming: BTreeMap::new(),
            sequence: 0,
            records: BTreeMap::new(),
            silent: BTreeMap::new(),
            slow: BTreeSet::new(),
            longest: Duration::ZERO,
        }
    }

    fn within(&mut self, time: Duration) -> Duration {
        time.mul_f64(self.random.f64())
    }

    fn comes(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.coming.insert((self.now + after, self.sequence), event);
    }

    fn stands(&mut self, record: Record, after: Duration) {
        self.revision += 1;
        self.records.insert(record.uuid, record.clone());
        self.comes(
            after,
            Event::Registered {
                record,
                modified: Revision(self.revision),
                lease: Some(lease(7)),
            },
        );
    }

    /// So many servers register within `time`.
    fn join(&mut self, count: usize, time: Duration) {
        for _ in 0..count {
            let record = Record {
                uuid: Uuid::from_u128(self.random.u128(..)),
                ..record(1, 0)
            };
            let after = self.within(time);
            self.stands(record, after);
        }
    }

    /// Another leader takes over, and finds all servers at once.
    fn succeed(&mut self) {
        self.coming.clear();
        let found = self.records.values().map(|record| Published {
            instance: Instance::of(record),
            lease: Some(lease(7)),
        });
        self.registry = Registry::new(
            uuid(2_000),
            &ValidConfig::default(),
            found,
            self.seed,
            self.now,
        );
        for record in self.records.values().cloned().collect::<Vec<_>>() {
            self.stands(record, Duration::ZERO);
        }
    }

    /// Makes a configured server mute from now on. Returns whether there was one.
    fn silence_one(&mut self) -> bool {
        let configured = self.records.values().filter(|record| record.configured);
        let others: Vec<Uuid> = configured
            .map(|record| record.uuid)
            .filter(|id| !self.silent.contains_key(id))
            .collect();
        let Some(id) = self.random.choice(others) else {
            return false;
        };
        self.silent.insert(id, self.now);
        self.coming
            .retain(|_, event| !matches!(event, Event::ProbeOk { uuid, .. } if *uuid == id));
        true
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let tick = self.registry.deadline() + GRAIN;
            let event = self
                .coming
                .first_key_value()
                .map(|((at, _), _)| *at)
                .filter(|at| *at <= tick);
            let next = event.unwrap_or(tick);
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            let actions = match event.and_then(|_| self.coming.pop_first()) {
                Some((_, event)) => self.registry.handle(event, self.now),
                None => self.registry.tick(self.now),
            };
            for action in actions {
                self.perform(action);
            }
        }
        self.now = end;
        let mut waiting = self
            .silent
            .iter()
            .filter(|(_, since)| **since + BOUND < end);
        assert_eq!(
            waiting.next(),
            None,
            "not removed within {BOUND:?}: seed {}",
            self.seed
        );
    }

    fn perform(&mut self, action: Action) {
        let after = self.within(LATENCY);
        match action {
            Action::Probe {
                uuid, token, fresh, ..
            } if !self.silent.contains_key(&uuid) => {
                let is_late = self.slow.contains(&uuid) && !fresh;
                let after = if is_late {
                    Duration::from_millis(2_500)
                } else {
                    after
                };
                self.comes(
                    after,
                    Event::ProbeOk {
                        uuid,
                        token,
                        digest: "I,D".into(),
                    },
                );
            }
            Action::Ask {
                uuid,
                token,
                witnesses,
                ..
            } => {
                let is_silent = self.silent.contains_key(&uuid);
                let (after, testimony) = if is_silent {
                    (WITNESS, Testimony::NotReached)
                } else {
                    (after, Testimony::Reached)
                };
                for (witness, _) in witnesses {
                    self.comes(
                        after,
                        Event::Testified {
                            uuid,
                            token,
                            witness,
                            testimony: testimony.clone(),
                        },
                    );
                }
            }
            Action::Configure { record, .. } => {
                let uuid = record.uuid;
                self.stands(record, after);
                self.comes(
                    after,
                    Event::WriteDone {
                        uuid,
                        stands: Some(Revision(self.revision)),
                    },
                );
            }
            Action::Remove(Removal { uuid, modified, .. }) => {
                let since = self.silent.remove(&uuid);
                let since = since.unwrap_or_else(|| {
                    panic!("{uuid} answers, and is removed: seed {}", self.seed)
                });
                self.longest = self.longest.max(self.now - since);
                self.records.remove(&uuid);
                self.revision += 1;
                self.comes(
                    after,
                    Event::WriteDone {
                        uuid,
                        stands: Some(Revision(self.revision)),
                    },
                );
                let deleted = Event::Deleted {
                    uuid,
                    written: modified,
                    departure: None,
                    reset: false,
                    lease_alive: false,
                };
                self.comes(after, deleted);
            }
            _ => {}
        }
    }

    /// Makes servers mute one after the other, at random moments within two periods.
    fn silence_some(&mut self) {
        let count = (self.records.len() / 20).clamp(1, MAX_SILENT);
        for _ in 0..count {
            loop {
                let pause = self.within(Duration::from_secs(1));
                self.pass(pause);
                if self.silence_one() {
                    break;
                }
            }
        }
        self.pass(BOUND + Duration::from_millis(1));
        println!(
            "seed {}: {} servers, removed after {:.1?} at most",
            self.seed,
            self.records.len(),
            self.longest
        );
        assert!(
            self.longest > Duration::ZERO && self.silent.is_empty(),
            "seed {}",
            self.seed
        );
    }
}

/// Small meshes are cheap: there are more of them, to cover more moments.
fn sizes() -> impl Iterator<Item = usize> {
    [5; 30]
        .into_iter()
        .chain([25; 30])
        .chain([100; 5])
        .chain([1_000, 5_000])
}

#[test]
fn a_server_mute_after_registration_is_removed_in_time() {
    for (seed, count) in (0..).zip(sizes()) {
        let mut mesh = Mesh::new(seed);
        mesh.join(count, Duration::from_secs(8));
        mesh.pass(Duration::from_millis(200));
        mesh.silence_some();
    }
}

#[test]
fn a_server_mute_while_the_mesh_grows_is_removed_in_time() {
    for (seed, count) in (1000..).zip(sizes()) {
        let mut mesh = Mesh::new(seed);
        mesh.join(count.div_ceil(5), Duration::from_secs(1));
        mesh.pass(Duration::from_secs(12));
        mesh.join(count - count.div_ceil(5), Duration::from_secs(9));
        mesh.silence_some();
    }
}

#[test]
fn a_server_mute_after_a_failover_is_removed_in_time() {
    for (seed, count) in (2000..).zip(sizes()) {
        let mut mesh = Mesh::new(seed);
        mesh.join(count, Duration::from_secs(1));
        mesh.pass(Duration::from_secs(7));
        mesh.succeed();
        mesh.pass(Duration::from_millis(100));
        mesh.silence_some();
    }
}

/// They answer the second probe of a series, which may be in flight when the next round begins.
#[test]
fn a_slow_server_that_turns_mute_is_removed_in_time() {
    for (seed, count) in (3000..).zip(sizes()) {
        let mut mesh = Mesh::new(seed);
        mesh.join(count, Duration::from_secs(8));
        mesh.pass(Duration::from_secs(9));
        mesh.slow = mesh.records.keys().copied().step_by(3).collect();
        mesh.pass(Duration::from_secs(25));
        mesh.silence_some();
    }
}
