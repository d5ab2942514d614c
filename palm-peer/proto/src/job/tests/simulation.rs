//! Jobs in a mesh that loses, delays, duplicates and reorders, and whose servers die, freeze,
//! leave, come and are busy.

mod reports;

use super::{LIMITS, sent};
use crate::{
    job::{Action, Event, Job, Limits, MessageError, Outcome, Route},
    types::message::{CallErrorKind, CallFailure},
};
use bytes::Bytes;
use fastrand::Rng;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How likely things are, of 1000 in each step or hop.
#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    die: u32,
    leave: u32,
    freeze: u32,
    lose: u32,
    double: u32,
    busy: u32,
    fail: u32,
    /// A stage sends it to another instance than the route says, or loses it, and reports that.
    stray: u32,
    lose_aloud: u32,
    /// Which message takes each server down that runs it, if one does.
    poison: Option<u64>,
}

/// One copy of a message: at a server, or on its way there.
#[derive(Debug, Clone)]
struct Copy {
    idx: u64,
    /// Which attempt of it.
    attempt: u32,
    route: Vec<u128>,
    stage: usize,
    /// Whether it is in the server, or before it.
    inside: bool,
    due: Instant,
}

#[derive(Debug)]
struct Server {
    stage: usize,
    frozen_until: Option<Instant>,
}

struct World {
    weather: Weather,
    random: Rng,
    job: Job,
    now: Instant,
    servers: BTreeMap<u128, Server>,
    next_server: u128,
    /// What became of servers that the client has not heard of yet.
    news: Vec<(Instant, Event)>,
    copies: Vec<Copy>,
    answers: Vec<(Instant, u64, Outcome)>,
    sent: BTreeMap<u64, u32>,
    /// Attempts that were lost in truth, by message.
    lost: BTreeMap<u64, BTreeSet<u32>>,
    killed_by_poison: u32,
    given: u64,
    out: Vec<(u64, Outcome)>,
}

impl World {
    fn new(seed: u64, limits: Limits, stages: usize, weather: Weather) -> Self {
        let mut world = Self {
            weather,
            random: Rng::with_seed(seed),
            job: Job::new(limits, seed),
            now: Instant::now(),
            servers: BTreeMap::new(),
            next_server: 1,
            news: Vec::new(),
            copies: Vec::new(),
            answers: Vec::new(),
            sent: BTreeMap::new(),
            lost: BTreeMap::new(),
            killed_by_poison: 0,
            given: 0,
            out: Vec::new(),
        };
        for stage in 0..stages {
            for _ in 0..3 {
                world.start(stage);
            }
        }
        world
    }

    fn chance(&mut self, of_1000: u32) -> bool {
        self.random.u32(0..1000) < of_1000
    }

    fn delay(&mut self, most_ms: u64) -> Instant {
        self.now + Duration::from_millis(self.random.u64(0..=most_ms))
    }

    fn start(&mut self, stage: usize) {
        self.servers.insert(
            self.next_server,
            Server {
                stage,
                frozen_until: None,
            },
        );
        self.next_server += 1;
    }

    /// A server goes down with all that is in it, and another one takes its place.
    fn kill(&mut self, server: u128) {
        let Some(dead) = self.servers.remove(&server) else {
            return;
        };
        self.start(dead.stage);
        let heard = self.delay(50);
        self.news.push((
            heard,
            Event::Gone {
                instance: Uuid::from_u128(server),
                stages: vec![dead.stage],
            },
        ));
        let with_it: Vec<_> = self
            .copies
            .extract_if(.., |c| c.inside && c.route[c.stage] == server)
            .collect();
        for copy in with_it {
            self.lose(&copy);
        }
    }

    /// A server leaves in order. What it has or gets goes to others without being run again.
    fn leave(&mut self, server: u128) {
        let Some(left) = self.servers.remove(&server) else {
            return;
        };
        self.start(left.stage);
        // It is taken out of what is published before it passes anything on.
        self.send(Event::Leaving(Uuid::from_u128(server)));
        let other = self.pick(left.stage, None);
        for copy in self
            .copies
            .iter_mut()
            .filter(|copy| copy.route[copy.stage] == server)
        {
            copy.route[copy.stage] = other;
        }
    }

    fn lose(&mut self, copy: &Copy) {
        self.lost.entry(copy.idx).or_default().insert(copy.attempt);
    }

    fn pick(&mut self, stage: usize, avoid: Option<Uuid>) -> u128 {
        let able: Vec<u128> = self
            .servers
            .iter()
            .filter(|(_, s)| s.stage == stage)
            .map(|(server, _)| *server)
            .collect();
        let open: Vec<u128> = able
            .iter()
            .copied()
            .filter(|server| avoid != Some(Uuid::from_u128(*server)))
            .collect();
        *self
            .random
            .choice(if open.is_empty() { &able } else { &open })
            .expect("each stage has servers")
    }

    fn act(&mut self, actions: Vec<Action>) {
        let stages = self
            .servers
            .values()
            .map(|server| server.stage)
            .max()
            .unwrap_or(0)
            + 1;
        for Action::Send { idx, avoid, .. } in actions {
            let route: Vec<u128> = (0..stages).map(|stage| self.pick(stage, avoid)).collect();
            let uuids = route.iter().copied().map(Uuid::from_u128).collect();
            let attempt = *self
                .sent
                .entry(idx)
                .and_modify(|count| *count += 1)
                .or_insert(1);
            let due = self.delay(20);
            let copy = Copy {
                idx,
                attempt,
                route,
                stage: 0,
                inside: false,
                due,
            };
            let copies = if self.chance(self.weather.double) {
                2
            } else {
                1
            };
            self.copies.extend(std::iter::repeat_n(copy, copies));
            self.send(Event::Sent { idx, route: uuids });
        }
    }

    fn send(&mut self, event: Event) {
        let actions = self.job.actions_after(event, self.now);
        self.act(actions);
    }

    fn answer(&mut self, copy: &Copy, ending: Result<Bytes, CallErrorKind>) {
        let server = Some(Uuid::from_u128(copy.route[copy.stage]));
        let stage = copy.stage;
        let ending = ending.map(Into::into).map_err(|kind| MessageError {
            failure: CallFailure::new(kind, "x"),
            stage,
            server,
        });
        let due = self.delay(20);
        self.answers.push((due, copy.idx, ending));
    }

    /// A copy comes to its server, or has been run there.
    fn hop(&mut self, mut copy: Copy) {
        let server = copy.route[copy.stage];
        match self.servers.get(&server).map(|server| server.frozen_until) {
            None if copy.stage == 0 => return self.lose(&copy),
            // Who passes it on finds out, and chooses another one.
            None => copy.route[copy.stage] = self.pick(copy.stage, None),
            Some(Some(until)) => copy.due = until,
            Some(None) if copy.inside => return self.run(copy),
            Some(None) if self.chance(self.weather.lose) => return self.lose(&copy),
            Some(None) if self.chance(self.weather.busy) => {
                return self.answer(&copy, Err(CallErrorKind::Busy));
            }
            Some(None) => {
                copy.inside = true;
                copy.due = self.delay(30);
            }
        }
        self.copies.push(copy);
    }

    fn run(&mut self, mut copy: Copy) {
        if self.weather.poison == Some(copy.idx) && copy.stage == copy.route.len() / 2 {
            self.killed_by_poison += 1;
            self.kill(copy.route[copy.stage]);
            self.lose(&copy);
        } else if self.chance(self.weather.fail) {
            self.answer(&copy, Err(CallErrorKind::Failed));
        } else if copy.stage + 1 == copy.route.len() {
            self.answer(&copy, Ok("done".into()));
        } else {
            copy.stage += 1;
            copy.inside = false;
            copy.due = self.delay(20);
            self.pass_on(copy);
        }
    }

    fn inject_failures(&mut self) {
        let all: Vec<u128> = self.servers.keys().copied().collect();
        let server = *self.random.choice(&all).expect("there are servers");
        if self.chance(self.weather.die) {
            self.kill(server);
        } else if self.chance(self.weather.leave) {
            self.leave(server);
        } else if self.chance(self.weather.freeze) {
            let until = self.delay(3000);
            self.servers
                .entry(server)
                .and_modify(|server| server.frozen_until = Some(until));
        }
        let now = self.now;
        for server in self.servers.values_mut() {
            server.frozen_until.take_if(|until| *until <= now);
        }
    }

    /// When something happens next, as far as is known.
    fn next_event(&self) -> Option<Instant> {
        let copies = self.copies.iter().map(|copy| copy.due);
        let answers = self.answers.iter().map(|(due, ..)| *due);
        let news = self.news.iter().map(|(due, _)| *due);
        copies
            .chain(answers)
            .chain(news)
            .chain(self.job.deadline())
            .min()
    }

    fn step(&mut self, messages: u64) {
        let step = Duration::from_millis(self.random.u64(1..20));
        self.now = self
            .next_event()
            .map_or(self.now, |next| next.max(self.now))
            + step;
        self.inject_failures();
        while self.job.may_pull() && self.random.u8(0..4) > 0 {
            self.given += u64::from(self.given < messages);
            let more = self.job.counts().pulled < messages;
            let event = if more {
                Event::Pulled(vec![1; self.random.usize(0..100)].into())
            } else {
                Event::InputEnded
            };
            self.send(event);
            let held = self.job.flights.len() + self.job.finished.len();
            assert!(held <= self.job.limits.messages, "{held} messages are held");
        }
        let now = self.now;
        let due: Vec<_> = self.copies.extract_if(.., |copy| copy.due <= now).collect();
        for copy in due {
            self.hop(copy);
        }
        let due: Vec<_> = self
            .answers
            .extract_if(.., |(due, ..)| *due <= now)
            .collect();
        for (_, idx, ending) in due {
            self.send(Event::Answered { idx, ending });
        }
        let due: Vec<_> = self.news.extract_if(.., |(due, _)| *due <= now).collect();
        for (_, event) in due {
            self.apply(event);
        }
        let actions = self.job.actions_at(self.now);
        self.act(actions);
        assert!(
            self.job.deadline().is_none_or(|at| at > self.now),
            "a timer that is past stays"
        );
        if self.random.bool() {
            self.out
                .extend(std::iter::from_fn(|| self.job.next_result()));
        }
    }

    /// Runs the job to its end, and checks what holds in any weather.
    fn run_job(mut self, seed: u64, messages: u64) -> Self {
        let mut steps = 0;
        while !self.job.is_over() {
            self.step(messages);
            steps += 1;
            assert!(steps < 50_000, "seed {seed}: the job does not end");
        }
        let mut ended: Vec<_> = self.out.iter().map(|(idx, _)| *idx).collect();
        if !self.job.limits.ordered {
            ended.sort_unstable();
        }
        assert!(
            ended.iter().copied().eq(0..messages),
            "seed {seed}: {ended:?}"
        );
        let counts = self.job.counts();
        assert_eq!(
            (counts.pulled, counts.done + counts.failed),
            (messages, messages),
            "seed {seed}"
        );
        assert!(
            self.job.timers.len() == 0 && self.job.loads.is_empty() && self.job.bytes == 0,
            "seed {seed}"
        );
        self
    }

    fn errors(&self) -> impl Iterator<Item = (u64, CallErrorKind)> {
        self.out
            .iter()
            .filter_map(|(idx, ending)| Some((*idx, ending.as_ref().err()?.failure.kind)))
    }
}

/// Laws: every message ends exactly once; in order where order was asked for; nothing is held in
/// the end; and the window bounds what is held.
#[test]
fn every_message_ends_exactly_once_in_two_thousand_histories() {
    for seed in 0..2_000 {
        let mut random = Rng::with_seed(seed);
        let limits = Limits {
            messages: random.usize(1..20),
            ordered: random.bool(),
            attempts: random.u32(1..5),
            deadline: Duration::from_secs(random.u64(1..30)),
            attempt_timeout: Duration::from_millis(random.u64(100..10_000)),
            ..LIMITS
        };
        let mut rare = |most| random.u32(0..most);
        let weather = Weather {
            die: rare(100),
            leave: rare(100),
            freeze: rare(50),
            lose: rare(50),
            double: rare(50),
            busy: rare(100),
            fail: rare(50),
            stray: rare(100),
            lose_aloud: rare(50),
            poison: Some(3),
        };
        let stages = random.usize(1..5);
        World::new(seed, limits, stages, weather).run_job(seed, random.u64(0..40));
    }
}

/// Law: where servers die and freeze, but none for longer than patience, a message fails only if
/// each of its attempts was lost, and no attempt beyond the limit is made.
#[test]
fn messages_fail_only_after_all_attempts_were_lost() {
    let (mut failed, mut saved) = (0, 0);
    for seed in 0..1_000 {
        let mut random = Rng::with_seed(seed);
        let limits = Limits {
            messages: 20,
            deadline: Duration::from_secs(600),
            ordered: random.bool(),
            ..LIMITS
        };
        let weather = Weather {
            die: random.u32(0..150),
            leave: random.u32(0..50),
            freeze: random.u32(0..50),
            ..Weather::default()
        };
        let world = World::new(seed, limits, 3, weather).run_job(seed, 60);
        for (idx, kind) in world.errors() {
            let lost = world.lost.get(&idx).map_or(0, BTreeSet::len);
            assert!(
                kind == CallErrorKind::Unreachable && lost >= 3,
                "seed {seed}: {idx} {kind}, {lost} attempts lost"
            );
            failed += 1;
        }
        assert!(
            world
                .sent
                .values()
                .all(|attempts| *attempts <= limits.attempts),
            "seed {seed}"
        );
        saved += world
            .sent
            .iter()
            .filter(|(idx, sent)| **sent == 3 && !world.lost.contains_key(idx))
            .count();
    }
    assert!(
        failed > 0 && saved > 100,
        "too calm to show anything: {failed} failed, {saved} were saved"
    );
}

/// Law: where servers die and leave, and messages are lost with them alone, no message
/// waits for patience.
#[test]
fn every_loss_with_a_server_is_noticed() {
    for seed in 0..500 {
        let mut random = Rng::with_seed(seed);
        let hour = Duration::from_secs(3600);
        let limits = Limits {
            messages: 20,
            deadline: hour * 100,
            attempt_timeout: hour,
            attempts: 100,
            ..LIMITS
        };
        let weather = Weather {
            die: random.u32(0..100),
            leave: random.u32(0..200),
            ..Weather::default()
        };
        let world = World::new(seed, limits, 3, weather);
        let start = world.now;
        let world = world.run_job(seed, 60);
        assert!(
            world.now < start + hour,
            "seed {seed}: a message waited in vain"
        );
        assert_eq!(world.errors().count(), 0, "seed {seed}");
    }
}

/// Law: a message that takes down each server that runs it ends after as many as it has attempts,
/// and no other message fails.
#[test]
fn a_poison_message_fails_alone_after_its_attempts() {
    for seed in 0..1_000 {
        let mut random = Rng::with_seed(seed);
        let limits = Limits {
            messages: random.usize(1..100),
            ordered: random.bool(),
            ..LIMITS
        };
        let weather = Weather {
            poison: Some(random.u64(0..100)),
            ..Weather::default()
        };
        let stages = random.usize(1..4);
        let world = World::new(seed, limits, stages, weather).run_job(seed, 100);
        let failed: Vec<_> = world.errors().collect();
        let poison = weather.poison.expect("set above");
        assert_eq!(
            failed,
            [(poison, CallErrorKind::Unreachable)],
            "seed {seed}"
        );
        assert_eq!(world.killed_by_poison, limits.attempts, "seed {seed}");
    }
}

#[test]
fn final_attempts_after_losses_are_serialised() {
    let now = Instant::now();
    let mut job = Job::new(
        Limits {
            attempts: 2,
            ..LIMITS
        },
        0,
    );
    let route: Route = [Uuid::from_u128(1)].into();
    for idx in 0..3 {
        job.actions_after(Event::Pulled("x".into()), now);
        job.actions_after(
            Event::Sent {
                idx,
                route: route.clone(),
            },
            now,
        );
    }
    assert_eq!(
        sent(&job.actions_after(
            Event::Gone {
                instance: route[0],
                stages: vec![0]
            },
            now
        )),
        [0]
    );
    job.actions_after(Event::Sent { idx: 0, route }, now);
    assert_eq!(
        sent(&job.actions_after(
            Event::Answered {
                idx: 0,
                ending: Ok("".into())
            },
            now
        )),
        [1]
    );
    let settled = job.deadline().expect("it is not waited for ever");
    assert_eq!(sent(&job.actions_at(settled)), [2]);
}
