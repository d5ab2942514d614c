use super::*;
use fastrand::Rng;
use std::collections::BTreeSet;

const LIMITS: Limits = Limits {
    messages: 8,
    bytes: 1000,
    attempts: 3,
    deadline: Duration::from_secs(30),
    patience: Duration::from_secs(10),
    ordered: true,
};

fn fault(kind: FailureKind, server: u128) -> Ending {
    Err(Fault { failure: Failure::new(kind, "x"), stage: 0, server: Some(Uuid::from_u128(server)) })
}

fn sent(actions: &[Action]) -> Vec<u64> {
    actions.iter().map(|Action::Send { idx, .. }| *idx).collect()
}

#[test]
fn the_window_bounds_messages_and_bytes_until_they_are_consumed() {
    let now = Instant::now();
    let mut job = Job::new(LIMITS);
    for _ in 0..8 {
        assert!(job.may_pull());
        job.handle(Event::Pulled("abc".into()), now);
    }
    assert!(!job.may_pull());
    job.handle(Event::Answered { idx: 0, ending: Ok("r".into()) }, now);
    assert!(!job.may_pull(), "a result that nobody took still counts");
    assert_eq!(job.next(), Some((0, Ok("r".into()))));
    assert!(job.may_pull());
    let mut job = Job::new(LIMITS);
    job.handle(Event::Pulled(vec![0; 5000].into()), now);
    assert!(!job.may_pull(), "one message may exceed the bytes, a second may not follow");
}

#[test]
fn results_come_in_order_or_as_they_complete() {
    let now = Instant::now();
    for (ordered, first) in [(true, None), (false, Some((1, Ok(Bytes::from("b")))))] {
        let mut job = Job::new(Limits { ordered, ..LIMITS });
        job.handle(Event::Pulled("0".into()), now);
        job.handle(Event::Pulled("1".into()), now);
        job.handle(Event::Answered { idx: 1, ending: Ok("b".into()) }, now);
        assert_eq!(job.next(), first);
    }
}

#[test]
fn a_server_that_is_gone_costs_an_attempt_and_a_refusal_does_not() {
    let now = Instant::now();
    let mut job = Job::new(LIMITS);
    job.handle(Event::Pulled("0".into()), now);
    for round in 1..=2 {
        job.handle(Event::Sent { idx: 0, route: vec![Uuid::from_u128(7)] }, now);
        assert_eq!(job.handle(Event::Answered { idx: 0, ending: fault(FailureKind::Leaving, 7) }, now), []);
        assert_eq!(sent(&job.tick(now + Duration::from_secs(1))), [0]);
        job.handle(Event::Sent { idx: 0, route: vec![Uuid::from_u128(8)] }, now);
        job.handle(Event::Gone(Uuid::from_u128(8)), now);
        assert_eq!(job.counts().retried, round);
        assert_eq!(sent(&job.tick(now)), [0]);
    }
    job.handle(Event::Sent { idx: 0, route: vec![Uuid::from_u128(9)] }, now);
    job.handle(Event::Gone(Uuid::from_u128(9)), now);
    let (_, ending) = job.next().expect("three attempts are all");
    assert_eq!(ending.expect_err("lost").failure.kind, FailureKind::Unreachable);
}

#[test]
fn a_message_past_its_deadline_ends_in_an_error_once() {
    let now = Instant::now();
    let mut job = Job::new(LIMITS);
    job.handle(Event::Pulled("0".into()), now);
    job.handle(Event::Sent { idx: 0, route: vec![Uuid::from_u128(7)] }, now);
    assert_eq!(job.deadline(), Some(now + LIMITS.patience));
    job.tick(now + LIMITS.deadline);
    assert!(job.next().expect("ended").1.is_err());
    job.handle(Event::Answered { idx: 0, ending: Ok("late".into()) }, now);
    assert_eq!((job.next(), job.counts().duplicates), (None, 1));
}

/// A network that loses, delays, duplicates and reorders, before instances that come and go.
struct World {
    random: Rng,
    job: Job,
    now: Instant,
    alive: BTreeSet<u128>,
    /// Answers on their way: due, and what they say.
    answers: Vec<(Instant, u64, Ending)>,
    given: u64,
    out: Vec<(u64, Ending)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let ordered = random.bool();
        let limits = Limits { messages: random.usize(1..20), ordered, attempts: random.u32(1..5), ..LIMITS };
        let alive = (1..4).collect();
        Self {
            random,
            job: Job::new(limits),
            now: Instant::now(),
            alive,
            answers: Vec::new(),
            given: 0,
            out: Vec::new(),
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        for Action::Send { idx, payload, .. } in actions {
            let alive: Vec<_> = self.alive.iter().copied().collect();
            let event = match self.random.choice(alive) {
                None => Event::NotSent {
                    idx,
                    fault: Fault { failure: Failure::new(FailureKind::NoSuchServer, "none"), stage: 0, server: None },
                },
                Some(server) => {
                    self.travel(idx, server, payload);
                    Event::Sent { idx, route: vec![Uuid::from_u128(server)] }
                }
            };
            let more = self.job.handle(event, self.now);
            self.act(more);
        }
    }

    fn travel(&mut self, idx: u64, server: u128, payload: Bytes) {
        let copies = match self.random.u8(0..20) {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let ending = match self.random.u8(0..12) {
                0 => fault(FailureKind::Busy, server),
                1 => fault(FailureKind::Failed, server),
                2 => fault(FailureKind::Unreachable, server),
                _ => Ok(payload.clone()),
            };
            let due = self.now + Duration::from_millis(self.random.u64(0..500));
            self.answers.push((due, idx, ending));
        }
    }

    fn step(&mut self, messages: u64) {
        self.now += Duration::from_millis(self.random.u64(0..200));
        if self.random.u8(0..10) == 0 {
            let server = self.random.u128(1..6);
            if self.alive.remove(&server) {
                let actions = self.job.handle(Event::Gone(Uuid::from_u128(server)), self.now);
                self.act(actions);
            } else {
                self.alive.insert(server);
            }
        }
        while self.job.may_pull() && self.random.u8(0..4) > 0 {
            let event = if self.given < messages {
                self.given += 1;
                Event::Pulled(vec![1; self.random.usize(0..300)].into())
            } else {
                Event::InputEnded
            };
            let actions = self.job.handle(event, self.now);
            self.act(actions);
            assert!(self.job.flights.len() + self.job.finished.len() <= self.job.limits.messages);
        }
        let actions = self.job.tick(self.now);
        self.act(actions);
        assert!(self.job.deadline().is_none_or(|at| at > self.now), "a timer that is past stays");
        let now = self.now;
        let due: Vec<_> = self.answers.extract_if(.., |(due, ..)| *due <= now).collect();
        for (_, idx, ending) in due {
            let actions = self.job.handle(Event::Answered { idx, ending }, self.now);
            self.act(actions);
        }
        if self.random.bool() {
            while let Some(ending) = self.job.next() {
                self.out.push(ending);
            }
        }
    }
}

/// Laws: every message ends exactly once; in order where order was asked for; and nothing is held in the end.
#[test]
fn every_message_ends_exactly_once_in_three_thousand_histories() {
    for seed in 0..3_000 {
        let mut world = World::new(seed);
        let messages = world.random.u64(0..40);
        let mut steps = 0;
        while !world.job.is_over() {
            world.step(messages);
            steps += 1;
            assert!(steps < 20_000, "seed {seed}: the job does not end");
        }
        let mut ended: Vec<_> = world.out.iter().map(|(idx, _)| *idx).collect();
        if !world.job.limits.ordered {
            ended.sort_unstable();
        }
        assert!(ended.iter().copied().eq(0..messages), "seed {seed}: {ended:?}");
        let counts = world.job.counts();
        assert_eq!((counts.pulled, counts.done + counts.failed), (messages, messages), "seed {seed}");
        assert!(world.job.timers.is_empty() && world.job.bytes == 0, "seed {seed}");
    }
}
