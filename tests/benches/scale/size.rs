//! Section 1: the cost of joining servers.

use crate::{
    table::{Row, short},
    world::{Formed, Work, World},
};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Lets real servers join an existing mesh, to measure what each costs etcd.
const JOINING: usize = 20;

/// `idle`: bytes that etcd sends in a second when nothing happens.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn measure(world: &mut World, formed: Formed, idle: f64) -> Row {
    let (leader_rss, etcd_rss, all) = (world.leader_rss(), world.etcd_rss(), world.etcd.metrics());
    let began = Instant::now();
    let joined = world.add_real(JOINING);
    // Requests after they are published, such as watches, are included.
    thread::sleep(Duration::from_secs(1));
    let work = Work::between(all.clone(), world.etcd.metrics());
    let each = |number: f64| short(number / JOINING as f64);
    let sent = work.sent() - idle * began.elapsed().as_secs_f64();
    let counts = ["Txn", "Range", "Watch"].map(|method| each(work.requests(method)));
    Row::new("1. Mesh size", world.plan.n)
        .cell("configured s", time(formed.configured))
        .cell("published s", time(formed.published))
        .number("leader CPU s", formed.leader_cpu)
        .number("etcd CPU s", formed.etcd_cpu)
        .number("leader RSS MB", leader_rss)
        .number("etcd RSS MB", etcd_rss)
        .number("goroutines", all.sum("go_goroutines", ""))
        .number(
            "etcd sent MB",
            all.sum("etcd_network_client_grpc_sent_bytes_total", "") / 1e6,
        )
        .cell(
            "20 real servers join s",
            joined.map_or("not".to_owned(), |time| short(time.as_secs_f64())),
        )
        .cell("sent per joining server kB", each(sent / 1e3))
        .cell(
            "puts / txns / ranges / watch streams each",
            format!("{} / {}", each(work.puts()), counts.join(" / ")),
        )
        .cell("goroutines each", each(work.goroutines()))
}

/// Returns a time, or how far it got.
fn time(time: Result<Duration, usize>) -> String {
    time.map_or_else(
        |count| format!("not all: {count}"),
        |time| short(time.as_secs_f64()),
    )
}
