//! Section 3: the cost of an idle mesh.

use crate::{
    table::Row,
    world::{PROBE_PERIOD, Work, World},
};
use std::{thread, time::Instant};

/// How many probe periods are measured.
const ROUNDS: u32 = 2;

/// What was measured.
pub(crate) struct Steady {
    pub row: Row,
    /// Bytes that etcd sends in a second.
    pub etcd_out: f64,
}

#[allow(clippy::cast_precision_loss)]
pub(crate) fn measure(world: &World) -> Steady {
    // The servers were configured a moment ago: waits until the aftermath is over.
    thread::sleep(PROBE_PERIOD / 2);
    let (before, revision, marks) = (world.etcd.metrics(), world.revision(), world.marks());
    let (before_running, etcd) = (world.running(), world.etcd_cpu());
    let lines = world.leader().mark();
    let began = Instant::now();
    thread::sleep(PROBE_PERIOD * ROUNDS);
    let seconds = began.elapsed().as_secs_f64();
    let work = Work::between(before, world.etcd.metrics());
    let (running, etcd) = (world.running(), world.etcd_cpu() - etcd);
    let [leader, next] = [0, 1].map(|place| running[place] - before_running[place]);
    let rounds = seconds / PROBE_PERIOD.as_secs_f64();
    let log: usize = world
        .leader()
        .lines_after(lines)
        .iter()
        .map(|line| line.len() + 1)
        .sum();
    let row = Row::new("3. Steady state", world.plan.n)
        .number("leader CPU %", leader / seconds * 100.0)
        .number("that of the next in line", next / seconds * 100.0)
        .number(
            "us per server and round",
            leader * 1e6 / world.servers() as f64 / rounds,
        )
        .number(
            "more than the next in line",
            (leader - next) * 1e6 / world.servers() as f64 / rounds,
        )
        .number("etcd CPU %", etcd / seconds * 100.0)
        .number("etcd out B/s", work.sent() / seconds)
        .number("keep-alives/s", work.messages("LeaseKeepAlive") / seconds)
        .number("puts per round", work.puts() / rounds)
        .number(
            "writes per round",
            (world.revision() - revision) as f64 / rounds,
        )
        .number("leader log B/s", log as f64 / seconds)
        .cell("evictions", world.evictions(&marks))
        .cell("published", world.published());
    Steady {
        row,
        etcd_out: work.sent() / seconds,
    }
}
