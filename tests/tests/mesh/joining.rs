//! Joining while etcd is slow, or while its answers are lost.

// A test speaks by panicking.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use crate::common::SOON;
use palm_tests::{Etcd, Process, Proxy, eventually, example};

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
    eventually("it asks for a lease three times", SOON, || (grants() >= 3.0).then_some(()));
    assert_eq!(leases(&etcd), 1, "{:?}", server.lines());
    between.cut();
    between.pass();
    server.wait_for_line(|line| line.contains("joined as"), SOON);
    assert_eq!(leases(&etcd), 1, "{:?}", server.lines());
    server.terminate();
    server.wait(SOON);
    eventually("only the lease of the tombstone is left", SOON, || (leases(&etcd) == 1).then_some(()));
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
    eventually("etcd has its lease", SOON, || (leases(&etcd) == 1).then_some(()));
    // The answer to what takes the lease back is lost as well, and does it all the same.
    assert_ne!(server.wait(SOON).code(), Some(0));
    eventually("no lease is left", SOON, || (leases(&etcd) == 0).then_some(()));
    let (line, _) = server.wait_for_line(|line| line.contains("etcd cannot be reached"), SOON);
    assert!(line.contains(&between.endpoint()), "{line}");
}
