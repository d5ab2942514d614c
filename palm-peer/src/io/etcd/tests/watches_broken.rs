//! Watches that are cut off, compacted, frozen, or outlive their etcd.

use std::time::Instant;

use futures::executor::block_on;
use palm_tests::{EtcdCluster, Proxy};

use super::{super::*, *};
use palm_proto::types::ids::Revision;

#[test]
fn changes_compacted_during_an_outage_come_as_a_difference() {
    let server = palm_tests::Etcd::start();
    let between = Proxy::start(server.address());
    let etcd = handle([between.endpoint()]);
    for key in ["/w/gone", "/w/kept", "/w/changed"] {
        server.etcdctl(&["put", key, "1"]);
    }
    let mut watch = etcd.watch(Target::Prefix("/w/".into()));
    told(&etcd, &mut watch, "listed");
    between.cut();
    server.etcdctl(&["del", "/w/gone"]);
    server.etcdctl(&["put", "/w/passing", "1"]);
    server.etcdctl(&["del", "/w/passing"]);
    server.etcdctl(&["put", "/w/changed", "2"]);
    server.etcdctl(&["put", "/w/new", "1"]);
    let revision = block_on(handle([server.endpoint()]).list("/w/"))
        .expect("a list")
        .revision;
    server.etcdctl(&["compact", &revision.to_string()]);
    between.pass();
    assert_eq!(
        told(&etcd, &mut watch, "listed"),
        [
            "interrupted",
            "-/w/gone",
            "+/w/changed=2",
            "+/w/new=1",
            "listed"
        ]
    );
    server.etcdctl(&["put", "/w/after", "1"]);
    assert_eq!(told(&etcd, &mut watch, "+/w/after=1"), ["+/w/after=1"]);
}

/// etcd says `created`, then `canceled`, and is silent from then on.
#[test]
fn a_watch_from_a_compacted_revision_reports_it() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    for n in 0..5 {
        block_on(put(&etcd, "/w/a", &n.to_string())).expect("a write");
    }
    server.etcdctl(&["compact", "5"]);
    let reason = wait(
        &etcd,
        crate::io::etcd::watch_task::follow_from(&etcd, Target::Prefix("/w/".into()), Revision(2)),
    );
    assert!(reason.contains("compacted"), "{reason}");
}

#[test]
fn a_watch_survives_a_restart_of_etcd() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    let mut watch = etcd.watch(Target::Prefix("/w/".into()));
    told(&etcd, &mut watch, "listed");
    server.stop();
    assert_eq!(short(&wait(&etcd, watch.next())), "interrupted");
    server.restart();
    server.etcdctl(&["put", "/w/a", "1"]);
    let mut changes = told(&etcd, &mut watch, "+/w/a=1");
    changes.retain(|change| change != "listed");
    assert_eq!(changes, ["+/w/a=1"], "one interruption is told once");
}

#[test]
fn a_watch_opened_before_etcd_starts_recovers() {
    let server = palm_tests::Etcd::start();
    server.stop();
    let etcd = handle([server.endpoint()]);
    let mut watch = etcd.watch(Target::Prefix("/w/".into()));
    assert_eq!(short(&wait(&etcd, watch.next())), "interrupted");
    server.restart();
    assert_eq!(told(&etcd, &mut watch, "listed"), ["listed"]);
}

#[test]
fn a_watch_leaves_a_frozen_member() {
    let cluster = EtcdCluster::start();
    let leader = cluster.leader();
    let between = Proxy::start(cluster.member((leader + 1) % 3).address());
    let etcd = handle([between.endpoint(), cluster.member(leader).endpoint()]);
    let mut watch = loop {
        etcd.pool().begin_at(0);
        let mut watch = etcd.watch(Target::Prefix("/w/".into()));
        told(&etcd, &mut watch, "listed");
        block_on(put(&etcd, "/w/ready", "")).expect("a write");
        told(&etcd, &mut watch, "+/w/ready=");
        if etcd.pool().begins_at() == 0 {
            break watch;
        }
    };
    between.stall();
    let began = Instant::now();
    cluster.member(leader).etcdctl(&["put", "/w/a", "1"]);
    // Nothing else uses the connection: only the pings detect it.
    assert_eq!(
        told(&etcd, &mut watch, "+/w/a=1"),
        ["interrupted", "+/w/a=1"]
    );
    assert!(
        began.elapsed() < Duration::from_secs(11),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_working_watch_survives_a_check() {
    let server = palm_tests::Etcd::start();
    let etcd = handle([server.endpoint()]);
    let mut watch = etcd.watch(Target::Prefix("/w/".into()));
    told(&etcd, &mut watch, "listed");
    etcd.pool()
        .invalidate(etcd.pool().place_of(0).expect("a connection"));
    // It asks for a sign of life now; longer than the answer may take nothing must happen.
    let quiet = block_on(async {
        let timer = etcd.timer(EtcdSettings::REQUEST_TIMEOUT + Duration::from_millis(500));
        let change = watch.next();
        futures::pin_mut!(timer, change);
        matches!(
            futures::future::select(change, timer).await,
            futures::future::Either::Right(_)
        )
    });
    assert!(quiet);
    block_on(put(&etcd, "/w/a", "1")).expect("a write over a new connection");
    assert_eq!(told(&etcd, &mut watch, "+/w/a=1"), ["+/w/a=1"]);
}

#[test]
fn a_request_timeout_makes_other_watches_check() {
    let server = palm_tests::Etcd::start();
    let between = Proxy::start(server.address());
    let etcd = handle([between.endpoint()]);
    let mut watch = etcd.watch(Target::Prefix("/w/".into()));
    told(&etcd, &mut watch, "listed");
    between.stall();
    let began = Instant::now();
    block_on(etcd.get("/w/a")).expect_err("silence");
    assert_eq!(short(&wait(&etcd, watch.next())), "interrupted");
    // The pings alone would take up to 8 s.
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "{:?}",
        began.elapsed()
    );
    between.pass();
    told(&etcd, &mut watch, "listed");
}

#[test]
fn a_watch_leaves_a_member_that_lost_its_quorum() {
    let cluster = EtcdCluster::start();
    let leader = cluster.leader();
    let etcd = handle([cluster.member(leader).endpoint()]);
    let mut watch = etcd.watch(Target::Prefix("/w/".into()));
    told(&etcd, &mut watch, "listed");
    for other in [1, 2] {
        cluster.member((leader + other) % 3).kill();
    }
    assert_eq!(short(&wait(&etcd, watch.next())), "interrupted");
}
