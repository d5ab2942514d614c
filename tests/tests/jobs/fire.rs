//! Accounting under fire: each second a server dies, freezes or is replaced, once the leader, and once etcd is away.
//!
//! `PALM_FIRE_MESSAGES` and `PALM_FIRE_SEEDS` make it longer: `PALM_FIRE_MESSAGES=200000 PALM_FIRE_SEEDS=3 cargo test
//! --release -p palm-tests --test jobs fire -- --nocapture`.

use super::client;
use futures::{StreamExt as _, executor::block_on};
use palm_peer::Bytes;
use palm_tests::{Etcd, Process, eventually, example};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(30);
const NAMES: [&str; 3] = ["a", "b", "c"];

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

struct Mesh<'a> {
    etcd: &'a Etcd,
    random: fastrand::Rng,
    servers: Vec<(&'static str, Process)>,
    frozen: VecDeque<(Instant, usize)>,
}

impl<'a> Mesh<'a> {
    fn new(etcd: &'a Etcd, seed: u64) -> Self {
        let mut mesh =
            Self { etcd, random: fastrand::Rng::with_seed(seed), servers: Vec::new(), frozen: VecDeque::new() };
        mesh.servers = NAMES.iter().cycle().take(9).map(|name| (*name, mesh.start(name))).collect();
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
        let well: Vec<usize> =
            (0..self.servers.len()).filter(|place| !self.frozen.iter().any(|(_, frozen)| frozen == place)).collect();
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
                self.frozen.push_back((Instant::now() + Duration::from_secs(3), place));
                format!("froze {name}")
            }
            _ => {
                let newcomer = self.start(name);
                let old = std::mem::replace(&mut self.servers[place].1, newcomer);
                old.terminate();
                old.wait(SOON);
                format!("{name} left and was replaced")
            }
        }
    }

    fn kill_leader(&mut self) {
        // The one that joined first leads, or whoever has said so last.
        let leads = |server: &Process| server.lines().iter().any(|line| line.contains("leading the mesh, in term"));
        let place = (0..self.servers.len()).rev().find(|place| leads(&self.servers[*place].1)).unwrap_or(0);
        let name = self.servers[place].0;
        self.servers[place].1.kill();
        self.servers[place].1 = self.start(name);
    }

    fn thaw(&mut self) {
        while self.frozen.front().is_some_and(|(at, _)| *at <= Instant::now()) {
            if let Some((_, place)) = self.frozen.pop_front() {
                self.servers[place].1.thaw();
            }
        }
    }
}

/// Waits for the tick of the drum: the strikes are paced, and the job runs meanwhile.
fn until(next: Instant, over: impl Fn() -> bool) -> bool {
    while Instant::now() < next {
        if over() {
            return false;
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    !over()
}

fn under_fire(seed: u64, messages: u64) {
    let etcd = Etcd::start();
    let mut mesh = Mesh::new(&etcd, seed);
    let client = client(&etcd);
    eventually("all nine can be reached", SOON, || {
        let reachable = client.reachable();
        (reachable.len() == 3 && reachable.iter().all(|server| server.instances == 3)).then_some(())
    });
    let given = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&given);
    // As fast as the window lets it at first, and then for as long as the strikes go on.
    let input = (0..messages).map(move |number| {
        counter.store(number + 1, Ordering::Relaxed);
        Bytes::from(format!("{number}:"))
    });
    // A message that waits at a frozen server may see several others die in these seconds: on a slow machine three attempts
    // are few.
    let job = client.job(["a.add", "b.add", "c.add"]).attempts(8);
    let job = job.window(512, 1 << 20).timeout(Duration::from_secs(60));
    let results = job.run_iter(input).expect("all are there");
    let progress = results.progress();
    let consumer = thread::spawn(move || {
        block_on(results.fold(0_u64, |count, (idx, result)| async move {
            assert_eq!(idx, count, "each message ends once, in order");
            assert_eq!(result.unwrap_or_else(|e| panic!("message {idx}: {e}")), format!("{idx}:abc"), "its own result");
            count + 1
        }))
    });
    let start = Instant::now();
    let (mut second, mut etcd_away) = (0, None);
    while until(start + Duration::from_secs(second + 1), || consumer.is_finished()) {
        second += 1;
        mesh.thaw();
        if etcd_away.is_some_and(|until| Instant::now() >= until) {
            etcd.restart();
            etcd_away = None;
        }
        match second {
            3 => mesh.kill_leader(),
            // Nobody can join while etcd is away.
            6 => {
                etcd.stop();
                etcd_away = Some(Instant::now() + Duration::from_secs(10));
            }
            _ if etcd_away.is_none() => {
                mesh.strike();
            }
            _ => {}
        }
    }
    let counted = consumer.join().expect("no error");
    assert_eq!((counted, given.load(Ordering::Relaxed)), (messages, messages));
    println!(
        "seed {seed}: {messages} messages in {:.1} s under fire, {} tried again, no error",
        start.elapsed().as_secs_f64(),
        progress.retried()
    );
}

#[test]
fn each_message_ends_in_one_result_under_fire() {
    for seed in 1..=number("PALM_FIRE_SEEDS", 1) {
        under_fire(seed, number("PALM_FIRE_MESSAGES", 60_000));
    }
}
