//! Section 5: etcd is killed, and restarted with its data.

use crate::{
    patience,
    table::{Row, short},
    world::{Calls, World, wait_for},
};
use std::{
    thread,
    time::{Duration, Instant},
};

/// How long it is down.
const AWAY: Duration = Duration::from_secs(15);

pub(crate) fn measure(world: &mut World) -> Row {
    let calls = Calls::start(world);
    let marks = world.marks();
    let called = calls.count();
    let rejoined = world.swarm.rejoined();
    world.etcd.kill();
    thread::sleep(AWAY);
    let during = calls.count();
    world.etcd.launch();
    world.etcd.await_health();
    let began = Instant::now();
    // All are published, and a server that starts now is as well: there is a working leader.
    let added = world.add_real(1);
    let servers = world.servers();
    let recovered = wait_for(patience(world.plan.n), || {
        (world.published() == servers && world.seen() == servers).then(|| began.elapsed())
    });
    let recovered = added.and(recovered);
    let metrics = world.etcd.metrics();
    let requests = |method: &str| {
        metrics.sum(
            "grpc_server_started_total",
            &format!("grpc_method=\"{method}\""),
        )
    };
    let count = calls.count();
    Row::new("5. etcd away for 15 s", world.plan.n)
        .cell(
            "recovered after its return s",
            recovered.map_or("not".to_owned(), |took| short(took.as_secs_f64())),
        )
        .cell("published", format!("{} of {servers}", world.published()))
        .cell("false evictions", world.evictions(&marks))
        .cell("registered again", world.swarm.rejoined() - rejoined)
        .cell("no_such_server", count.missing - called.missing)
        .cell(
            "call errors away",
            format!(
                "{} of {}",
                during.errors - called.errors,
                during.calls - called.calls
            ),
        )
        .cell(
            "and after",
            format!(
                "{} of {}",
                count.errors - during.errors,
                count.calls - during.calls
            ),
        )
        .number("ranges", requests("Range"))
        .number("watch streams", requests("Watch"))
        .number("keep-alive streams", requests("LeaseKeepAlive"))
        .number("lease grants", requests("LeaseGrant"))
        .number(
            "etcd sent MB",
            metrics.sum("etcd_network_client_grpc_sent_bytes_total", "") / 1e6,
        )
        .number("etcd CPU s", world.etcd_cpu())
}
