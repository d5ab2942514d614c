//! Joining while etcd is slow, or its responses are lost.

// Tests fail by panicking.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use crate::{
    common::SOON,
    in_process::{InProcess, echo, settings},
};
use futures::executor::block_on;
use palm_peer::Server;
use palm_tests::{Etcd, Process, Proxy, SlowAnswers, eventually, example};
use std::{
    thread,
    time::{Duration, Instant},
};

/// How many leases etcd has.
fn leases(etcd: &Etcd) -> usize {
    etcd.etcdctl(&["lease", "list"]).lines().skip(1).count()
}

#[test]
fn a_server_whose_join_is_repeated_takes_one_lease() {
    let etcd = Etcd::start();
    let between = Proxy::start(etcd.address());
    between.swallow();
    let server = Process::builder(example("printf"))
        .args(["run", "--etcd", &between.endpoint()])
        .env("PALM_JOIN_TIMEOUT", "3600")
        .start();
    let grants = || etcd.metric_where("grpc_server_started_total", "grpc_method=\"LeaseGrant\"");
    eventually("it asks for a lease three times", SOON, || {
        (grants() >= 3.0).then_some(())
    });
    assert_eq!(leases(&etcd), 1, "{:?}", server.lines());
    between.cut();
    between.pass();
    server.wait_for_line(|line| line.contains("joined as"), SOON);
    assert_eq!(leases(&etcd), 1, "{:?}", server.lines());
    server.terminate();
    server.wait(SOON);
    eventually("only the lease of the tombstone is left", SOON, || {
        (leases(&etcd) == 1).then_some(())
    });
}

#[test]
fn a_server_that_gives_up_joining_leaves_no_lease() {
    let etcd = Etcd::start();
    let between = Proxy::start(etcd.address());
    between.swallow();
    let server = Process::builder(example("printf"))
        // It shall not be that the lease expires.
        .args(["run", "--ttl", "60", "--etcd", &between.endpoint()])
        .env("PALM_JOIN_TIMEOUT", "3")
        .start();
    eventually("etcd has its lease", SOON, || {
        (leases(&etcd) == 1).then_some(())
    });
    // The answer to what takes the lease back is lost as well, and does it all the same.
    assert_ne!(server.wait(SOON).code(), Some(0));
    eventually("no lease is left", SOON, || {
        (leases(&etcd) == 0).then_some(())
    });
    let (line, _) = server.wait_for_line(|line| line.contains("etcd cannot be reached"), SOON);
    assert!(line.contains(&between.endpoint()), "{line}");
}

/// As slow as an etcd whose disk takes some 100 ms for each write, when many write.
const SLOW: Duration = Duration::from_millis(700);
const MANY: usize = 50;

#[test]
fn many_servers_can_join_a_slow_etcd_at_once() {
    crate::heavy();
    let etcd = Etcd::start();
    let between = SlowAnswers::start(etcd.address());
    between.delay(SLOW);
    let settings = || settings(&etcd).etcd(vec![between.endpoint()]);
    let began = Instant::now();
    let joining: Vec<_> = (0..MANY)
        .map(|_| {
            let (server, options) = (Server::new("slow").function("echo", echo), settings());
            thread::spawn(move || block_on(server.join(options)))
        })
        .collect();
    let joined: Vec<_> = joining
        .into_iter()
        .map(|joining| joining.join().unwrap())
        .collect();
    let took = began.elapsed();
    let failed: Vec<_> = joined
        .iter()
        .filter_map(|joined| joined.as_ref().err())
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {MANY} did not join: {failed:?}",
        failed.len()
    );
    let granted = etcd.metric_where("grpc_server_started_total", "grpc_method=\"LeaseGrant\"");
    println!(
        "{MANY} servers joined an etcd that answers after {SLOW:?} within {took:.1?}; {granted} grants asked for"
    );
    assert_eq!(leases(&etcd), MANY, "one lease for each");
    let streams = etcd.metric_where("grpc_server_started_total", "grpc_method=\"Watch\"");
    let published = || {
        etcd.etcdctl(&["get", "--keys-only", "--prefix", "/pipelines/slow/"])
            .split_whitespace()
            .count()
    };
    // Serving begins with the first leader, whose every write is slow as well.
    let serving: Vec<_> = joined
        .into_iter()
        .map(|peer| InProcess::serve(peer.unwrap()))
        .collect();
    eventually("all are published", 3 * SOON, || {
        (published() == MANY).then_some(())
    });
    println!(
        "all are published {:.1?} after they began to join; {streams} Watch RPCs by then",
        began.elapsed()
    );
    assert_eq!(leases(&etcd), MANY, "one lease for each");
    between.delay(Duration::ZERO);
    drop(serving);
}
