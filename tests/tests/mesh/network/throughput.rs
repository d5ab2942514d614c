//! What a path between two stages that swallows everything costs a job in throughput.

use super::stages::Stages;
use palm_peer::Progress;
use palm_tests::{Etcd, Network};
use std::{
    thread,
    time::{Duration, Instant},
};

const HOSTS: [&str; 7] = [
    "leader", "first-1", "first-2", "first-3", "last-1", "last-2", "last-3",
];
const STAGES: [(&str, &str); 6] = [
    ("first-1", "b"),
    ("first-2", "b"),
    ("first-3", "b"),
    ("last-1", "a"),
    ("last-2", "a"),
    ("last-3", "a"),
];

/// How long the job is measured without a fault, before it and after it.
const HEALTHY: Duration = Duration::from_secs(8);
/// By when the path is avoided: 5 s are allowed, a busy machine needs some more.
const AVOIDED: Duration = Duration::from_secs(8);
/// How long the job is measured then.
const AVOIDING: Duration = Duration::from_secs(12);
/// What the job must have of its throughput once the path is avoided, on a machine on which other
/// tests come and go.
const LEAST: f64 = 0.3;

/// A time of the job.
struct Measured {
    /// Results per second.
    rate: f64,
    /// The longest time without a result.
    gap: Duration,
    /// Messages that the client sent again.
    retried: u64,
}

#[allow(clippy::cast_precision_loss)]
fn measure(progress: &Progress, time: Duration) -> Measured {
    let (start, before, retried) = (Instant::now(), progress.done(), progress.retried());
    let (mut done, mut since, mut gap) = (before, start, Duration::ZERO);
    while start.elapsed() < time {
        thread::sleep(Duration::from_millis(5));
        gap = gap.max(since.elapsed());
        if progress.done() > done {
            done = progress.done();
            since = Instant::now();
        }
    }
    let rate = (done - before) as f64 / start.elapsed().as_secs_f64();
    Measured {
        rate,
        gap,
        retried: progress.retried() - retried,
    }
}

/// Measures a job through three instances of each of two stages, while `fault` keeps one of the
/// first from one of the last.
fn job_with(what: &str, fault: impl FnOnce(&Network, &Stages<'_>)) {
    let Some(network) = Network::start(&HOSTS) else {
        return;
    };
    crate::heavy();
    let etcd = Etcd::builder().at(network.here().address()).start();
    let stages = Stages::start_on(&network, &etcd, &[], &STAGES);
    stages.while_a_job_runs_at_full_speed(|progress| {
        let before = measure(progress, HEALTHY);
        fault(&network, &stages);
        let finding = measure(progress, AVOIDED);
        let avoiding = measure(progress, AVOIDING);
        network.heal();
        let after = measure(progress, HEALTHY);
        let healthy = f64::midpoint(before.rate, after.rate);
        let (found, left) = (AVOIDED.as_secs_f64(), AVOIDING.as_secs_f64());
        let faulty = (finding.rate * found + avoiding.rate * left) / (found + left);
        println!(
            "{what}: {healthy:.0} messages/s without it ({:.0} before, {:.0} after); with it {:.0} % in {:?}, {:.0} % from {AVOIDED:?} on; \
             no result for {:.2?}, then {:.2?}; {} and {} sent again",
            before.rate,
            after.rate,
            100.0 * faulty / healthy,
            AVOIDED + AVOIDING,
            100.0 * avoiding.rate / healthy,
            finding.gap,
            avoiding.gap,
            finding.retried,
            avoiding.retried
        );
        assert!(finding.gap < AVOIDED, "the job stood still for {:?}", finding.gap);
        assert!(avoiding.rate > LEAST * healthy, "{:.0} messages/s of {healthy:.0}", avoiding.rate);
        assert!(avoiding.gap < AVOIDED / 2, "once the path was known, the job stood still for {:?}", avoiding.gap);
    });
}

#[test]
fn a_black_holed_stage_connection_barely_slows_a_job() {
    job_with("connection black-holed", |network, stages| {
        network.black_hole(network.host("first-1").flow_to(&stages.servers[4].endpoint));
    });
}

#[test]
fn a_cut_path_between_stages_barely_slows_a_job() {
    job_with("path cut", |network, _| {
        network.cut(network.host("first-1"), network.host("last-1"));
    });
}
