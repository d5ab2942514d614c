//! Section 7: palm-cli.

use crate::{
    patience,
    table::{Row, short},
    world::{SOON, Work, World, wait_for},
};
use palm_tests::{Process, binary, median};
use std::time::Instant;

/// How often each command is run: the figures are medians.
const RUNS: usize = 5;

pub(crate) fn measure(world: &World) -> Row {
    let servers = world.servers();
    let before = world.etcd.metrics();
    let status = times(world, &["status"]);
    let sent = Work::between(before, world.etcd.metrics()).sent()
        / 1e3
        / f64::from(u8::try_from(RUNS).unwrap_or(1));
    let json = times(world, &["status", "--json"]);
    let before = world.etcd.metrics();
    let began = Instant::now();
    let reset = cli(world, &["reset", "--yes"]);
    reset.wait(patience(servers) + 10 * SOON);
    let published = wait_for(patience(servers), || {
        (world.published() == servers && world.seen() == servers).then(|| began.elapsed())
    });
    let work = Work::between(before, world.etcd.metrics());
    let says = reset
        .lines()
        .into_iter()
        .find(|line| line.contains("came back"))
        .unwrap_or_default();
    Row::new("7. palm-cli", world.plan.n)
        .number("status ms", status)
        .number("its kB from etcd", sent)
        .number("status --json ms", json)
        .cell("reset says", says)
        .cell(
            "all published s",
            published.map_or("not".to_owned(), |took| short(took.as_secs_f64())),
        )
        .number("etcd sent MB", work.sent() / 1e6)
}

fn cli(world: &World, words: &[&str]) -> Process {
    Process::builder(binary("palm-cli"))
        .args(["--etcd", &world.etcd.endpoint()])
        .args(words)
        .start()
}

/// How long it takes, in ms.
fn times(world: &World, words: &[&str]) -> f64 {
    let time = || {
        let began = Instant::now();
        let status = cli(world, words).wait(SOON);
        assert!(status.success(), "palm-cli {words:?}: {status}");
        began.elapsed().as_secs_f64() * 1e3
    };
    median((0..RUNS).map(|_| time()).collect())
}
