//! Section 4: the leader is killed.

use crate::{
    table::{Row, short},
    world::{Calls, LEADS, SOON, World, wait_for},
};
use std::{
    thread,
    time::{Duration, Instant},
};

/// How long there must be no writes for the mesh to count as quiet, and how long to wait for that.
const QUIET: Duration = Duration::from_secs(3);
const QUIET_WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn measure(world: &mut World) -> Row {
    let calls = Calls::start(world);
    let (marks, revision) = (world.marks(), world.revision());
    let called = calls.count();
    let (killed, count) = world.real.remove(world.leader);
    let others = world.servers();
    assert_eq!(count, 1, "the leader is alone in its process");
    let began = Instant::now();
    killed.kill();
    let consistent = wait_for(SOON, || {
        (world.seen() == others).then(|| (began.elapsed(), world.revision()))
    });
    let cells = |writes: i64| writes - revision;
    let leads = wait_for(SOON, || {
        let led = |(place, (process, _)): (usize, &(palm_tests::Process, usize))| {
            process
                .lines()
                .iter()
                .any(|line| line.contains(LEADS))
                .then_some(place)
        };
        world.real.iter().enumerate().find_map(led)
    });
    let (when, cpu) = leads.map_or((began, None), |place| {
        world.leader = place;
        let leader = world.leader();
        let (_, when) = leader.wait_for_line(|line| line.contains(LEADS), SOON);
        (when, Some(world.leader_cpu()))
    });
    let last = settle(world);
    let used = cpu.map_or(f64::NAN, |before| world.leader_cpu() - before);
    let count = calls.count();
    let after = consistent.map_or(0, |(_, at)| last - at);
    let time = |time: Duration| short(time.as_secs_f64());
    Row::new("4. Leader killed", world.plan.n)
        .cell(
            "leads after s",
            leads.map_or("not".to_owned(), |_| time(when - began)),
        )
        .cell(
            "clients consistent s",
            consistent.map_or("not".to_owned(), |(took, _)| time(took)),
        )
        .cell(
            "etcd writes until then",
            consistent.map_or("-".to_owned(), |(_, at)| cells(at).to_string()),
        )
        .cell("writes afterwards", after)
        .number("successor CPU s", used)
        .cell(
            "false evictions",
            world.evictions(&marks[1..]).saturating_sub(1),
        )
        .cell(
            "call errors",
            format!(
                "{} of {}",
                count.errors - called.errors,
                count.calls - called.calls
            ),
        )
        .cell("longest call ms", count.longest)
}

/// Waits until nothing is written to etcd for a while; returns the last revision.
fn settle(world: &World) -> i64 {
    let deadline = Instant::now() + QUIET_WITHIN;
    let (mut last, mut since) = (world.revision(), Instant::now());
    while since.elapsed() < QUIET && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
        let revision = world.revision();
        if revision != last {
            last = revision;
            since = Instant::now();
        }
    }
    last
}
