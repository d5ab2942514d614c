//! Section 2: a rolling restart while clients follow the mesh.

use crate::{
    table::Row,
    world::{Calls, REAL, SOON, Work, World, cpu, role},
};
use std::time::{Duration, Instant};

#[allow(clippy::cast_precision_loss)]
pub(crate) fn measure(world: &World) -> Row {
    let (clients, restarts) = (world.plan.clients, world.plan.restarts);
    let url = world.etcd.endpoint();
    let watchers = role(&["watchers", &url, &clients.to_string()]);
    watchers.wait_for_line(|line| line == "connected", SOON);
    let calls = Calls::start(world);
    let before = (
        world.etcd.metrics(),
        world.leader_cpu(),
        world.etcd_cpu(),
        cpu(watchers.pid()),
    );
    let called = calls.count();
    let began = Instant::now();
    role(&["roll", &url, REAL, &restarts.to_string()])
        .wait(Duration::from_secs(60) + SOON * u32::try_from(restarts).unwrap_or(1));
    let took = began.elapsed();
    let work = Work::between(before.0, world.etcd.metrics());
    let each = |number: f64| number / restarts as f64;
    let ms = |used: f64| each(used * 1e3);
    let count = calls.count();
    let done = world.seen() == world.servers();
    Row::new("2. Rolling restart", world.plan.n)
        .cell("clients", clients)
        .number("etcd sent per restart kB", each(work.sent() / 1e3))
        .number("puts", each(work.puts()))
        .number("txns", each(work.requests("Txn")))
        .number("leader CPU ms", ms(world.leader_cpu() - before.1))
        .number("etcd CPU ms", ms(world.etcd_cpu() - before.2))
        .number(
            "each client CPU ms",
            ms(cpu(watchers.pid()) - before.3) / clients.max(1) as f64,
        )
        .number("s each", each(took.as_secs_f64()))
        .cell(
            "call errors",
            format!(
                "{} of {}",
                count.errors - called.errors,
                count.calls - called.calls
            ),
        )
        .cell("all known after", if done { "yes" } else { "no" })
}
