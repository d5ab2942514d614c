//! Message accounting under failures: each second a server dies, freezes or is replaced, once the
//! leader, and once etcd is away.
//!
//! `PALM_CHAOS_MESSAGES`, `PALM_CHAOS_SECONDS` and `PALM_CHAOS_SEEDS` make it longer:
//! `PALM_CHAOS_MESSAGES=200000 PALM_CHAOS_SEEDS=3 cargo test --release -p palm-tests --test quiet chaos:: -- --nocapture`.
//! The job goes on until there were so many messages and so many seconds; etcd is away from the
//! sixth to the sixteenth.

// Tests fail by panicking.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use futures::{StreamExt as _, executor::block_on};
use palm_peer::{Bytes, Client, Config, Progress};
use palm_tests::{Etcd, Process, eventually, example, resident};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(30);
const NAMES: [&str; 3] = ["a", "b", "c"];

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

struct Mesh<'a> {
    etcd: &'a Etcd,
    random: fastrand::Rng,
    servers: Vec<(&'static str, Process)>,
    frozen: VecDeque<(Instant, usize)>,
    /// The servers that were asked to leave.
    leaving: Vec<Process>,
}

impl<'a> Mesh<'a> {
    fn new(etcd: &'a Etcd, seed: u64) -> Self {
        let mut mesh = Self {
            etcd,
            random: fastrand::Rng::with_seed(seed),
            servers: Vec::new(),
            frozen: VecDeque::new(),
            leaving: Vec::new(),
        };
        mesh.servers = NAMES
            .iter()
            .cycle()
            .take(9)
            .map(|name| (*name, mesh.start(name)))
            .collect();
        mesh
    }

    fn start(&self, name: &str) -> Process {
        let server = Process::builder(example("stage"))
            .arg("run")
            .env("PALM_ETCD", self.etcd.endpoint())
            .env("PALM_TEST_STAGE", name)
            .start();
        server.wait_for_line(|line| line.contains(" joined as "), SOON);
        server
    }

    /// Does something to a server that is well.
    fn strike(&mut self) -> String {
        let well: Vec<usize> = (0..self.servers.len())
            .filter(|place| !self.frozen.iter().any(|(_, frozen)| frozen == place))
            .collect();
        let place = well[self.random.usize(0..well.len())];
        let name = self.servers[place].0;
        match self.random.u8(0..3) {
            0 => {
                self.servers[place].1.kill();
                self.servers[place].1 = self.start(name);
                format!("killed and replaced {name}")
            }
            1 => {
                self.servers[place].1.freeze();
                self.frozen
                    .push_back((Instant::now() + Duration::from_secs(3), place));
                format!("froze {name}")
            }
            _ => {
                let newcomer = self.start(name);
                let old = std::mem::replace(&mut self.servers[place].1, newcomer);
                old.terminate();
                self.leaving.push(old);
                format!("{name} left and was replaced")
            }
        }
    }

    fn kill_leader(&mut self) -> String {
        // The one that joined first leads, or the last one that logged so.
        let leads = |server: &Process| {
            server
                .lines()
                .iter()
                .any(|line| line.contains("leading the mesh, in term"))
        };
        let place = (0..self.servers.len())
            .rev()
            .find(|place| leads(&self.servers[*place].1))
            .unwrap_or(0);
        let name = self.servers[place].0;
        self.servers[place].1.kill();
        self.servers[place].1 = self.start(name);
        format!("killed and replaced the leader, {name}")
    }

    fn thaw(&mut self) {
        while self
            .frozen
            .front()
            .is_some_and(|(at, _)| *at <= Instant::now())
        {
            if let Some((_, place)) = self.frozen.pop_front() {
                self.servers[place].1.thaw();
            }
        }
    }

    fn thaw_all(&mut self) {
        for (_, place) in self.frozen.drain(..) {
            self.servers[place].1.thaw();
        }
    }
}

/// Waits for the tick of the drum: the strikes are paced, and the job runs meanwhile.
fn until(next: Instant, over: &impl Fn() -> bool) -> bool {
    while Instant::now() < next {
        if over() {
            return false;
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    !over()
}

/// The job's messages: as many as are wanted, and on until it is told to stop. Each is large enough
/// that a copy kept of all would be seen.
fn input(
    least: u64,
    stop: &Arc<AtomicBool>,
    given: &Arc<AtomicU64>,
) -> impl Iterator<Item = Bytes> + Send + use<> {
    let (stop, given) = (Arc::clone(stop), Arc::clone(given));
    (0..)
        .take_while(move |number| *number < least || !stop.load(Ordering::Relaxed))
        .map(move |number| {
            given.store(number + 1, Ordering::Relaxed);
            message(number)
        })
}

fn message(number: u64) -> Bytes {
    format!("{number}:{}", "x".repeat(1000)).into()
}

/// Takes each second's toll until the consumer has all, and gives the memory that this process had
/// at most, beyond what it had in the beginning.
fn strike_until_over(
    mesh: &mut Mesh<'_>,
    seconds: u64,
    stop: &AtomicBool,
    done: &Progress,
    over: impl Fn() -> bool,
) -> u64 {
    let start = Instant::now();
    let (mut second, mut etcd_away, mut first, mut most) = (0, None, 0, 0);
    while until(start + Duration::from_secs(second + 1), &over) {
        second += 1;
        mesh.thaw();
        if etcd_away.is_some_and(|until| Instant::now() >= until) {
            mesh.etcd.restart();
            etcd_away = None;
        }
        let what = match second {
            3 => mesh.kill_leader(),
            // No server can join while etcd is away.
            6 => {
                mesh.etcd.stop();
                etcd_away = Some(Instant::now() + Duration::from_secs(10));
                "stopped etcd".to_owned()
            }
            _ if etcd_away.is_none() => mesh.strike(),
            _ => "etcd is away".to_owned(),
        };
        stop.store(second >= seconds, Ordering::Relaxed);
        let memory = resident(std::process::id());
        first = if second <= 2 { memory } else { first };
        most = most.max(memory);
        println!(
            "{second} s: {what}; {} done, {} tried again, {} MB",
            done.done(),
            done.retried(),
            memory >> 20
        );
    }
    most.saturating_sub(first)
}

fn run(seed: u64, messages: u64, seconds: u64) {
    let etcd = Etcd::start();
    let mut mesh = Mesh::new(&etcd, seed);
    let options = Config::default().etcd(vec![etcd.endpoint()]);
    let client = block_on(Client::connect(options)).expect("etcd is there");
    eventually("all nine can be reached", SOON, || {
        let reachable = client.reachable();
        (reachable.len() == 3 && reachable.iter().all(|server| server.instances == 3)).then_some(())
    });
    let (stop, given) = (Arc::default(), Arc::default());
    let job = client
        .job(["a.add", "b.add", "c.add"])
        .window(512, 1 << 20)
        .timeout(Duration::from_secs(60));
    let results = job
        .run_iter(input(messages, &stop, &given))
        .expect("all are there");
    let progress = results.progress();
    let consumer = thread::spawn(move || {
        block_on(results.fold(0_u64, |count, (idx, result)| async move {
            assert_eq!(idx, count, "each message ends once, in order");
            let result = result.unwrap_or_else(|e| panic!("message {idx}: {e}"));
            assert!(
                result == [&message(idx), &b"abc"[..]].concat(),
                "message {idx} has another's result"
            );
            count + 1
        }))
    });
    let start = Instant::now();
    let grown = strike_until_over(&mut mesh, seconds, &stop, &progress, || {
        consumer.is_finished()
    });
    let counted = consumer.join().expect("no error");
    assert_eq!(
        (counted, progress.failed()),
        (given.load(Ordering::Relaxed), 0)
    );
    assert!(counted >= messages, "{counted} messages");
    println!(
        "seed {seed}: {counted} messages in {:.1} s with failures, {} tried again, no error; memory grew by {} MB",
        start.elapsed().as_secs_f64(),
        progress.retried(),
        grown >> 20
    );
    // What a window of 512 messages may take, and what the test itself keeps; all
    // messages would be more.
    assert!(
        grown < 64 << 20,
        "the client's memory grew by {grown} bytes"
    );
    mesh.thaw_all();
    for server in &mesh.leaving {
        assert!(
            server.wait(SOON).success(),
            "a server that was asked to leave did not do so in order"
        );
    }
}

#[test]
fn each_message_ends_in_one_result_despite_failures() {
    let _quiet = crate::alone();
    for seed in 1..=number("PALM_CHAOS_SEEDS", 1) {
        run(
            seed,
            number("PALM_CHAOS_MESSAGES", 40_000),
            number("PALM_CHAOS_SECONDS", 18),
        );
    }
}
