//! Hostile servers, against clients, the leader that probes them, and palm-cli: no process ends,
//! spins or grows, and calls to other servers work.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod answers;
mod handshakes;
mod probes;
mod records;
mod rogue;

use palm_tests::{Etcd, Process, binary, eventually, example};
use std::{fs, time::Duration};

const SOON: Duration = Duration::from_secs(30);

/// The most memory that anybody here may come to hold, in kB: a few answers of the longest,
/// which are 4 MiB here.
const MAX_MEMORY: u64 = 200 * 1024;
/// The longest payload.
const MAX_PAYLOAD: &str = "4194304";

/// A mesh of one good server, which leads, and probes often.
struct World {
    etcd: Etcd,
    leader: Process,
}

impl World {
    fn start() -> Self {
        Self::start_with("2", "2")
    }

    /// One whose leader probes so often, and gives servers this long to answer, in seconds.
    fn start_with(probe_period: &str, probe_timeout: &str) -> Self {
        let etcd = Etcd::start();
        let leader = Process::builder(example("text"))
            .args([
                "run",
                "--debug",
                "--probe-period",
                probe_period,
                "--probe-timeout",
                probe_timeout,
            ])
            .env("PALM_ETCD", etcd.endpoint())
            .env("PALM_MAX_PAYLOAD", MAX_PAYLOAD)
            .start();
        leader.wait_for_line(|line| line.contains(" configured"), SOON);
        let world = Self { etcd, leader };
        world.good_call();
        world
    }

    /// What palm-cli says and how it ends.
    fn cli(&self, args: &[&str]) -> (Option<i32>, Vec<String>) {
        let cli = self.start_cli(args);
        (cli.wait(SOON).code(), cli.lines())
    }

    fn start_cli(&self, args: &[&str]) -> Process {
        Process::builder(binary("palm-cli"))
            .args(args)
            .env("PALM_ETCD", self.etcd.endpoint())
            .env("PALM_MAX_PAYLOAD", MAX_PAYLOAD)
            .env("PALM_TIMEOUT", "2")
            .start()
    }

    #[track_caller]
    fn good_call(&self) {
        eventually("a good call", SOON, || {
            (self.cli(&["call", "text.shout", "hello"]).1 == ["HELLO"]).then_some(())
        });
    }

    /// A client that calls `bad`, then somebody good; both went as the test wants it.
    fn caller(&self, bad: &str, job: bool) -> Process {
        if job {
            self.caller_with(bad, "--job")
        } else {
            self.start_caller(&[bad, "text.shout"])
        }
    }

    /// As [`World::caller`], with a flag.
    fn caller_with(&self, bad: &str, flag: &str) -> Process {
        self.start_caller(&[bad, "text.shout", flag])
    }

    fn start_caller(&self, args: &[&str]) -> Process {
        Process::builder(example("caller"))
            .args(args)
            .env("PALM_ETCD", self.etcd.endpoint())
            .env("PALM_MAX_PAYLOAD", MAX_PAYLOAD)
            .start()
    }

    /// The leader leads, answers, and is calm.
    #[track_caller]
    fn is_well(&self, after: &str) {
        stay_calm(&[(after, &self.leader)]);
        self.good_call();
    }
}

/// Fails if one of the processes dies, spins, or holds more memory than it should; each with
/// what was done to it.
#[track_caller]
fn stay_calm(processes: &[(&str, &Process)]) {
    let before: Vec<_> = processes
        .iter()
        .map(|(_, process)| process.processor_time())
        .collect();
    // Processor time can only be seen as time passes.
    std::thread::sleep(Duration::from_secs(1));
    for ((after, process), before) in processes.iter().zip(before) {
        assert!(
            process.is_running(),
            "{after}: it is gone: {:?}",
            process.lines()
        );
        let used = process.processor_time().saturating_sub(before);
        assert!(
            used <= Duration::from_millis(500),
            "{after}: it used {used:?} of a processor in a second"
        );
        let peak = memory(process, "VmHWM:");
        assert!(peak < MAX_MEMORY, "{after}: it held {peak} kB");
    }
}

/// The memory of a process, in kB.
fn memory(process: &Process, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("a process");
    let line = status
        .lines()
        .find(|line| line.starts_with(what))
        .expect("its memory");
    line.split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse().ok())
        .expect("a number")
}

/// No text holds a terminal's control sequences.
#[track_caller]
fn harmless(lines: &[String]) {
    for line in lines {
        assert!(
            !line.chars().any(|c| c.is_control() && c != '\t'),
            "{}",
            line.escape_debug()
        );
    }
}
