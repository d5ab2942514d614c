//! Calls in a mesh whose servers come, go, hang, leave, are busy and lose connections.

use super::{MS, failure, instance};
use crate::{
    call::{AttemptError, Call, FailedCall, Next},
    directory::Able,
    types::message::{CallErrorKind, CallFailure},
};
use fastrand::Rng;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

/// How long connecting may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// What a server is like at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Ready,
    Busy,
    Leaving,
    /// Packets to it are dropped.
    Silent,
    /// Its process is gone, though it may still be published.
    Gone,
    /// It runs the function, which fails or panics.
    Faulty,
    /// It runs the function, and the connection breaks.
    Breaking,
    /// It runs the function, for longer than the caller waits.
    Slow,
}

const ALL: [Health; 8] = [
    Health::Ready,
    Health::Busy,
    Health::Leaving,
    Health::Silent,
    Health::Gone,
    Health::Faulty,
    Health::Breaking,
    Health::Slow,
];

/// How a call ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Answered,
    MayHaveRun,
    GaveUp(FailedCall),
}

/// What changes as time passes: the last entry at or before a time holds.
type History<T> = Vec<(Instant, T)>;

struct World {
    random: Rng,
    now: Instant,
    deadline: Instant,
    healths: BTreeMap<u128, History<Health>>,
    published: History<BTreeSet<u128>>,
    /// How often the function ran, or may have.
    runs: u32,
    attempts: u32,
    tried_in_round: BTreeSet<u128>,
    last: Option<FailedCall>,
}

impl World {
    fn new(seed: u64, kinds: &[Health], changes: usize) -> Self {
        let mut random = Rng::with_seed(seed);
        let now = Instant::now();
        let count = random.u128(1..7);
        let healths = (1..=count).map(|n| {
            (
                n,
                history(&mut random, now, changes, |r| kinds[r.usize(..kinds.len())]),
            )
        });
        let healths = healths.collect();
        let subset = |r: &mut Rng| (1..=count).filter(|_| r.u8(0..4) > 0).collect();
        let mut published = history(&mut random, now, changes, subset);
        published[0].1 = (1..=count).collect();
        let deadline = now + random.u32(0..8000) * MS;
        let (tried_in_round, last) = Default::default();
        Self {
            random,
            now,
            deadline,
            healths,
            published,
            runs: 0,
            attempts: 0,
            tried_in_round,
            last,
        }
    }

    fn health(&self, n: u128) -> Health {
        *at(&self.healths[&n], self.now)
    }

    fn resolve(&self) -> Result<Able, CallFailure> {
        let published = at(&self.published, self.now);
        if published.is_empty() {
            return Err(failure(CallErrorKind::NoSuchServer));
        }
        Ok(published.iter().copied().map(instance).collect())
    }

    fn pass(&mut self, max_ms: u32) {
        self.now += self.random.u32(0..=max_ms) * MS;
    }

    /// Sends the request; time passes until the result is known.
    fn attempt(&mut self, n: u128) -> Result<(), AttemptError> {
        self.attempts += 1;
        let unreachable = failure(CallErrorKind::Unreachable);
        let health = self.health(n);
        self.pass(3);
        match health {
            Health::Gone => Err(AttemptError::NotConnected {
                failure: unreachable,
                retry_takes: None,
            }),
            Health::Silent => {
                self.now += OPEN_TIMEOUT.min(self.deadline.saturating_duration_since(self.now));
                Err(AttemptError::NotConnected {
                    failure: unreachable,
                    retry_takes: Some(OPEN_TIMEOUT),
                })
            }
            // Its goodbye came first.
            Health::Leaving if self.random.bool() => Err(AttemptError::NotSent(unreachable)),
            Health::Busy => self.answer(CallErrorKind::Busy),
            Health::Leaving => self.answer(CallErrorKind::Leaving),
            Health::Ready | Health::Faulty | Health::Breaking | Health::Slow => self.run(health),
        }
    }

    fn run(&mut self, health: Health) -> Result<(), AttemptError> {
        self.runs += 1;
        self.pass(20);
        match health {
            Health::Faulty => {
                let kinds = [
                    CallErrorKind::Failed,
                    CallErrorKind::Panicked,
                    CallErrorKind::TimedOut,
                ];
                let kind = kinds[self.random.usize(..kinds.len())];
                self.answer(kind)
            }
            Health::Breaking => Err(AttemptError::ConnectionLost),
            Health::Ready if self.now < self.deadline => Ok(()),
            _ => {
                self.now = self.now.max(self.deadline);
                Err(AttemptError::TimedOut)
            }
        }
    }

    fn answer(&self, kind: CallErrorKind) -> Result<(), AttemptError> {
        if self.now >= self.deadline {
            return Err(AttemptError::TimedOut);
        }
        Err(AttemptError::Answered(failure(kind)))
    }

    /// Makes one call as a client does, and checks each step.
    fn play(&mut self) -> End {
        let mut call = Call::new(self.deadline);
        loop {
            assert!(self.attempts < 10_000, "it never ends");
            let (able, random) = (self.resolve(), self.random.f64());
            let dice = &mut self.random;
            let choose = |left: &[Arc<_>]| {
                (!left.is_empty()).then(|| Arc::clone(&left[dice.usize(..left.len())]))
            };
            let next = call.next(self.now, able, choose, random);
            let published = at(&self.published, self.now);
            match next {
                Next::Attempt(chosen) => {
                    let n = chosen.uuid.as_u128();
                    assert_eq!(self.runs, 0, "sent again though it may have run");
                    assert!(self.now < self.deadline, "sent after the deadline");
                    assert!(
                        published.contains(&n),
                        "sent to an instance that is not published"
                    );
                    assert!(self.tried_in_round.insert(n), "tried twice in a round");
                    let Err(error) = self.attempt(n) else {
                        return End::Answered;
                    };
                    let server = Some(chosen.uuid);
                    match call.attempt_failed(chosen.uuid, error.clone()) {
                        Ok(()) => {
                            self.last = Some(FailedCall {
                                failure: refusal(error),
                                server,
                            });
                        }
                        Err(failed) => {
                            assert_eq!(failed.server, server);
                            return End::MayHaveRun;
                        }
                    }
                }
                Next::Wait(until) => {
                    assert!(
                        until > self.now && until < self.deadline,
                        "waits past the deadline"
                    );
                    assert!(
                        published.is_subset(&self.tried_in_round),
                        "waits while one is left to try"
                    );
                    self.tried_in_round.clear();
                    self.now = until;
                    self.pass(3);
                }
                Next::Fail(failed) => {
                    let all_tried = published.is_subset(&self.tried_in_round);
                    assert!(
                        all_tried || self.now >= self.deadline,
                        "gave up while one is left to try"
                    );
                    assert_eq!(
                        &failed,
                        self.last.as_ref().unwrap_or(&failed),
                        "not the last refusal"
                    );
                    return End::GaveUp(failed);
                }
            }
        }
    }
}

fn history<T>(
    random: &mut Rng,
    start: Instant,
    changes: usize,
    mut value: impl FnMut(&mut Rng) -> T,
) -> History<T> {
    let mut history = vec![(start, value(random))];
    for _ in 0..random.usize(0..=changes) {
        history.push((start + random.u32(0..8000) * MS, value(random)));
    }
    history.sort_by_key(|(at, _)| *at);
    history
}

fn at<T>(history: &History<T>, now: Instant) -> &T {
    let current = history.iter().rfind(|(at, _)| *at <= now);
    &current.expect("it holds from the start").1
}

/// What an instance refused an attempt with.
fn refusal(error: AttemptError) -> CallFailure {
    match error {
        AttemptError::NotConnected { failure, .. }
        | AttemptError::NotSent(failure)
        | AttemptError::Answered(failure) => failure,
        AttemptError::ConnectionLost | AttemptError::TimedOut => panic!("{error:?} is no refusal"),
    }
}

/// Makes a call in the mesh of this seed. A failed check names the seed.
fn play(seed: u64, kinds: &[Health], changes: usize) -> (World, End) {
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed {}", self.0);
            }
        }
    }
    let _seed = Seed(seed);
    let mut world = World::new(seed, kinds, changes);
    let end = world.play();
    match end {
        End::Answered => assert_eq!(world.runs, 1),
        End::MayHaveRun => assert!(world.runs <= 1),
        End::GaveUp(_) => assert_eq!(world.runs, 0, "reported as not run, though it ran"),
    }
    (world, end)
}

#[test]
fn a_call_runs_at_most_once_in_twenty_thousand_meshes() {
    let (mut answered, mut ran, mut gave_up) = (0, 0, 0);
    for seed in 0..20_000 {
        match play(seed, &ALL, 4).1 {
            End::Answered => answered += 1,
            End::MayHaveRun => ran += 1,
            End::GaveUp(_) => gave_up += 1,
        }
    }
    assert!(
        answered > 1000 && ran > 1000 && gave_up > 1000,
        "{answered}, {ran}, {gave_up}: not all ends occur"
    );
}

/// Whatever the others are like, an instance that is ready and published all the time answers, if
/// there is time to try all.
#[test]
fn one_ready_instance_answers_among_any_that_refuse() {
    for seed in 0..5000 {
        let mut world = World::new(
            seed,
            &[Health::Busy, Health::Leaving, Health::Silent, Health::Gone],
            0,
        );
        world.healths.insert(99, vec![(world.now, Health::Ready)]);
        world.published[0].1.insert(99);
        world.deadline = world.now + OPEN_TIMEOUT * 8;
        assert_eq!(world.play(), End::Answered, "seed {seed}");
    }
}

/// Servers that are all busy, for less time than the caller has, cost it no more than the longest
/// wait between two rounds.
#[test]
fn a_call_outlasts_busy_servers() {
    for seed in 0..5000 {
        let mut world = World::new(seed, &[Health::Busy], 0);
        let ready = world.now + world.random.u32(0..20_000) * MS;
        world.deadline = ready + Duration::from_secs(1);
        for history in world.healths.values_mut() {
            history.push((ready, Health::Ready));
        }
        assert_eq!(world.play(), End::Answered, "seed {seed}");
        assert!(
            world.now <= ready + 600 * MS,
            "seed {seed}: {:?} late",
            world.now - ready
        );
    }
}
