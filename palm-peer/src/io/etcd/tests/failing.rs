//! Members that are dead, frozen, away for a while, or not there at all.

use std::time::Instant;

use futures::executor::block_on;
use palm_tests::{EtcdCluster, Proxy};

use super::{super::*, *};

#[test]
fn a_frozen_server_costs_the_request_timeout_and_no_more() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    block_on(etcd.get("/a")).expect("connected");
    server.freeze();
    for _ in 0..2 {
        let began = Instant::now();
        let error = block_on(etcd.get("/a")).expect_err("silence");
        assert_eq!(error.kind(), EtcdErrorKind::Unreachable);
        assert!(error.to_string().contains("no answer within 2s"), "{error}");
        assert!(
            began.elapsed() < Duration::from_millis(2500),
            "{:?}",
            began.elapsed()
        );
    }
    server.thaw();
    block_on(etcd.get("/a")).expect("an answer after the thaw");
}

#[test]
fn the_error_names_every_endpoint_and_its_reason() {
    let server = palm_tests::Etcd::start();
    let stalled = Proxy::start(server.address());
    stalled.stall();
    let etcd = handle(["http://127.0.0.1:1".to_owned(), stalled.endpoint()]);
    let shown = block_on(etcd.get("/a")).expect_err("nobody").to_string();
    for part in [
        "http://127.0.0.1:1 (",
        "refused",
        &stalled.endpoint(),
        "no answer within",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn with_one_of_three_members_dead_every_request_succeeds() {
    let cluster = EtcdCluster::start();
    let dead = (cluster.leader() + 1) % 3;
    cluster.member(dead).kill();
    // Several handles, for each begins at a member by chance.
    for handle in (0..6).map(|_| handle(cluster.endpoints())) {
        for n in 0..50 {
            block_on(put(&handle, "/n", &n.to_string()))
                .expect("a write in spite of a dead member");
        }
    }
}

#[test]
fn with_the_leading_member_killed_in_between_requests_go_on() {
    let cluster = EtcdCluster::start();
    let etcd = handle(cluster.endpoints());
    block_on(put(&etcd, "/n", "before")).expect("a write");
    cluster.member(cluster.leader()).kill();
    // The others have to elect first, during which each of them may let a whole
    // request timeout pass.
    block_on(async {
        let began = Instant::now();
        while put(&etcd, "/n", "after").await.is_err() {
            assert!(began.elapsed() < PATIENCE, "no write since the leader died");
        }
        assert_eq!(
            etcd.get("/n")
                .await
                .expect("a read")
                .expect("the key")
                .value,
            b"after"
        );
    });
}

#[test]
fn a_frozen_member_is_left_after_one_timeout() {
    let cluster = EtcdCluster::start();
    let frozen = (cluster.leader() + 1) % 3;
    let etcd = handle([
        cluster.member(frozen).endpoint(),
        cluster.member(cluster.leader()).endpoint(),
    ]);
    block_on(etcd.get("/a")).expect("connected");
    cluster.member(frozen).freeze();
    let began = Instant::now();
    for _ in 0..100 {
        block_on(etcd.get("/a")).expect("an answer in spite of a frozen member");
    }
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    cluster.member(frozen).thaw();
}

#[test]
fn a_connection_that_broke_while_idle_costs_no_error() {
    let server = palm_tests::Etcd::start();
    let between = Proxy::start(server.address());
    let etcd = handle([between.endpoint()]);
    for _ in 0..5 {
        block_on(etcd.get("/a")).expect("an answer over a new connection");
        between.cut();
        between.pass();
    }
    server.restart();
    block_on(etcd.get("/a")).expect("an answer of the new process");
}
