//! Servers are killed and started again at the same address while a job runs.

use super::client;
use crate::common::running_job::while_a_job_runs;
use palm_peer::Progress;
use palm_tests::{Etcd, Process, example, free_port};
use std::{
    thread,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(20);
/// How long a job may stand still after a kill, the start of the new process included. What is lost
/// without anybody noticing is sent again after a third of its deadline, which is 10 s.
const GAP: Duration = Duration::from_secs(5);

fn stage(etcd: &Etcd, name: &str, port: &str) -> Process {
    let server = Process::builder(example("stage")).args(["run", "--port", port]);
    let server = server
        .env("PALM_ETCD", etcd.endpoint())
        .env("PALM_TEST_STAGE", name)
        .start();
    server.wait_for_line(|line| line.contains(" joined as "), SOON);
    server
}

/// A server that is killed and started again at the same address.
struct Restarted<'a> {
    etcd: &'a Etcd,
    name: &'static str,
    port: String,
    process: Process,
}

impl<'a> Restarted<'a> {
    fn start(etcd: &'a Etcd, name: &'static str) -> Self {
        let port = free_port().to_string();
        Self {
            etcd,
            name,
            process: stage(etcd, name, &port),
            port,
        }
    }

    fn restart(&mut self) {
        self.process.kill();
        self.process.wait(SOON);
        self.process = stage(self.etcd, self.name, &self.port);
    }
}

/// Waits for so many results more. Gives the longest time in which none came, from `since` on.
fn longest_gap(progress: &Progress, more: u64, mut since: Instant) -> Duration {
    let end = progress.done() + more;
    let (mut done, mut longest) = (progress.done(), Duration::ZERO);
    while done < end && longest < SOON {
        thread::sleep(Duration::from_millis(5));
        longest = longest.max(since.elapsed());
        if progress.done() > done {
            done = progress.done();
            since = Instant::now();
        }
    }
    longest
}

/// Restarts one server again and again, in the midst of the job's messages.
fn restarted_while_a_job_runs(etcd: &Etcd, mut server: Restarted<'_>) {
    while_a_job_runs(&client(etcd), |progress| {
        for round in 0..8 {
            let killed = Instant::now();
            server.restart();
            let gap = longest_gap(progress, 500, killed);
            println!("round {round}: no result for {gap:.1?}");
            assert!(gap < GAP, "round {round}: no result came for {gap:.1?}");
        }
    });
}

/// The client looked for the process that was gone at the address of the new one, which then sent
/// its answers there: to a connection that the client closed.
#[test]
fn a_last_stage_restarted_at_its_port_loses_no_answer() {
    let etcd = Etcd::start();
    let _first = stage(&etcd, "b", "0");
    restarted_while_a_job_runs(&etcd, Restarted::start(&etcd, "a"));
}

#[test]
fn a_first_stage_restarted_at_its_port_loses_no_message() {
    let etcd = Etcd::start();
    let _last = stage(&etcd, "a", "0");
    restarted_while_a_job_runs(&etcd, Restarted::start(&etcd, "b"));
}

#[test]
fn one_of_two_instances_restarted_at_its_port_loses_nothing() {
    let etcd = Etcd::start();
    let _others = [stage(&etcd, "b", "0"), stage(&etcd, "a", "0")];
    restarted_while_a_job_runs(&etcd, Restarted::start(&etcd, "a"));
}

/// The first to join leads.
#[test]
fn a_leader_restarted_at_its_port_loses_no_answer() {
    let etcd = Etcd::start();
    let leader = Restarted::start(&etcd, "a");
    let _first = stage(&etcd, "b", "0");
    restarted_while_a_job_runs(&etcd, leader);
}

/// Each time before the job could go on: what never came to a function has used up none
/// of its attempts.
#[test]
fn a_crash_looping_stage_uses_up_no_attempts() {
    let etcd = Etcd::start();
    let _first = stage(&etcd, "b", "0");
    let mut only = Restarted::start(&etcd, "a");
    while_a_job_runs(&client(&etcd), |progress| {
        (0..6).for_each(|_| only.restart());
        let gap = longest_gap(progress, 500, Instant::now());
        println!("no result for {gap:.1?} after the last restart");
        assert!(gap < GAP, "no result came for {gap:.1?}");
    });
}
