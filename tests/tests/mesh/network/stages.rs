//! Jobs whose stages are on several hosts, while a path between two of them fails.

use super::client::start_with;
use crate::common::{Mesh, SOON, Server, running_job};
use futures::executor::block_on;
use palm_peer::{Client, Progress};
use palm_tests::{Etcd, Network, eventually, example};
use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a job may stand still: design allows 5 s, a busy machine needs some more. What nobody
/// notices is sent again after 10 s.
const BOUND: Duration = Duration::from_secs(8);

/// One host for the leader, one for the first stage, and two for instances of the second.
pub(super) struct Stages<'a> {
    pub(super) mesh: Mesh<'a>,
    pub(super) client: Client,
    pub(super) servers: Vec<Server>,
}

impl<'a> Stages<'a> {
    pub(super) fn start(network: &Network, etcd: &'a Etcd) -> Self {
        Self::start_with(network, etcd, &[])
    }

    /// The servers have these flags besides.
    pub(super) fn start_with(network: &Network, etcd: &'a Etcd, flags: &[&str]) -> Self {
        Self::start_on(
            network,
            etcd,
            flags,
            &[("first", "b"), ("one", "a"), ("two", "a")],
        )
    }

    /// Stages of these names are on these hosts.
    pub(super) fn start_on(
        network: &Network,
        etcd: &'a Etcd,
        flags: &[&str],
        stages: &[(&str, &str)],
    ) -> Self {
        let mesh = Mesh::new(etcd, "/mesh", &[]);
        let stage = |&(host, name): &(&str, &str)| {
            let host = network.host(host);
            let (address, etcd) = (host.address().to_string(), etcd.endpoint());
            let run = host
                .builder(example("stage"))
                .args(["run", "--debug", "--etcd", &etcd, "--ip", &address]);
            let server = mesh.start_program(
                run.args(flags)
                    .env("PALM_TEST_STAGE", name)
                    .env("PALM_TEST_PANIC", "link-reopen"),
            );
            mesh.await_published(&[&server.uuid]);
            server
        };
        let leader = start_with(&mesh, etcd, network.host("leader"), "printf", flags);
        let mut servers = vec![leader];
        servers.extend(stages.iter().map(stage));
        let client = block_on(Client::connect(mesh.options())).expect("connects");
        Self {
            mesh,
            client,
            servers,
        }
    }

    fn one(&self) -> &Server {
        &self.servers[2]
    }

    /// How many messages the first instance of the second stage has run.
    fn run_by_one(&self) -> u64 {
        let answer = block_on(
            self.client
                .call(format!("{}._ping", self.one().uuid), "")
                .timeout(SOON)
                .into_future(),
        );
        let answer: serde_json::Value =
            serde_json::from_slice(&answer.expect("it answers")).expect("JSON");
        answer["requests"].as_u64().expect("a number")
    }

    /// Runs a job through the stages: [`running_job::while_a_job_runs`].
    pub(super) fn while_a_job_runs(&self, trouble: impl FnOnce(&Progress)) {
        running_job::while_a_job_runs(&self.client, trouble);
    }

    /// As [`Self::while_a_job_runs`], at full speed.
    pub(super) fn while_a_job_runs_at_full_speed(&self, trouble: impl FnOnce(&Progress)) {
        running_job::while_a_job_runs_at_full_speed(&self.client, trouble);
    }
}

/// Waits for so long, and until there are so many results more. The job must not stand still for
/// longer than [`BOUND`].
pub(super) fn goes_on(what: &str, progress: &Progress, more: u64, for_at_least: Duration) {
    let (start, end) = (Instant::now(), progress.done() + more);
    let (mut done, mut since, mut longest) = (progress.done(), start, Duration::ZERO);
    while progress.done() < end || start.elapsed() < for_at_least {
        thread::sleep(Duration::from_millis(5));
        longest = longest.max(since.elapsed());
        if progress.done() > done {
            done = progress.done();
            since = Instant::now();
        }
        assert!(longest < BOUND, "{what}: no result for {longest:.1?}");
    }
    println!(
        "{what}: no result for {longest:.1?}, {} in {:.1?}",
        progress.done() + more - end,
        start.elapsed()
    );
}

pub(super) const HOSTS: [&str; 4] = ["leader", "first", "one", "two"];

/// What the first stage passed on over the dead connection was sent again by the client after a
/// third of its deadline.
#[test]
fn a_black_holed_path_between_stages_is_avoided_then_reused() {
    let Some(network) = Network::start(&HOSTS) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let stages = Stages::start(&network, &etcd);
    stages.while_a_job_runs(|progress| {
        network.cut(network.host("first"), network.host("one"));
        goes_on("cut", progress, 2000, Duration::from_secs(10));
        goes_on("still cut", progress, 2000, Duration::from_secs(5));
        network.heal();
        let before = stages.run_by_one();
        eventually("it is used again", SOON, || {
            (stages.run_by_one() > before + 100).then_some(())
        });
        goes_on("healed", progress, 500, Duration::ZERO);
    });
    // What tries it again goes on trying after a panic.
    let panicked =
        |line: &str| line.contains("task link-reopen panicked: PALM_TEST_PANIC names link-reopen");
    stages.servers[1].wait_for_line(panicked, SOON);
}

/// As a firewall does that was reloaded, between the stages alone: to all others the server is
/// well.
#[test]
fn a_resetting_path_between_stages_is_avoided_then_reused() {
    let Some(network) = Network::start(&HOSTS) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let stages = Stages::start(&network, &etcd);
    stages.while_a_job_runs(|progress| {
        network.reject(network.host("first"), network.host("one"));
        goes_on("rejected", progress, 2000, Duration::from_secs(10));
        network.heal();
        let before = stages.run_by_one();
        eventually("it is used again", SOON, || {
            (stages.run_by_one() > before + 100).then_some(())
        });
    });
}

#[test]
fn a_last_stage_replaces_a_black_holed_answer_connection() {
    let Some(network) = Network::start(&HOSTS) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let stages = Stages::start(&network, &etcd);
    stages.while_a_job_runs(|progress| {
        network.black_hole(network.here().flow_to(&stages.one().endpoint));
        goes_on("swallowed", progress, 2000, Duration::from_secs(10));
        let before = stages.run_by_one();
        eventually("it is used again", SOON, || {
            (stages.run_by_one() > before + 100).then_some(())
        });
    });
}
