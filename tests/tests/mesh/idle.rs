//! An idle mesh only costs etcd the keep-alives of its leases.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::in_process::{self, InProcess, echo, settings};
use palm_peer::Server;
use palm_tests::{Etcd, eventually};

const PEERS: u32 = 20;
/// Six probe periods of the leader, and eighteen renewals of each peer.
const IDLE: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(10);

/// What etcd counts.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Counts {
    puts: f64,
    deletes: f64,
    transactions: f64,
    requests_to_read: f64,
    requests_to_write: f64,
    leases: f64,
    keep_alives: f64,
    streams: f64,
    watch_requests: f64,
    watch_answers: f64,
    watchers: f64,
}

impl Counts {
    fn of(etcd: &Etcd) -> Self {
        let started = |method: &str| {
            etcd.metric_where(
                "grpc_server_started_total",
                &format!("grpc_method=\"{method}\""),
            )
        };
        let watch = |name: &str| etcd.metric_where(name, "grpc_method=\"Watch\"");
        Self {
            puts: etcd.metric("etcd_mvcc_put_total"),
            deletes: etcd.metric("etcd_mvcc_delete_total"),
            // This one counts those that only read as well.
            transactions: etcd.metric("etcd_mvcc_txn_total"),
            requests_to_read: started("Range"),
            requests_to_write: started("Txn") + started("Put") + started("DeleteRange"),
            leases: started("LeaseGrant") + started("LeaseRevoke") + started("LeaseTimeToLive"),
            keep_alives: etcd.metric("etcd_debugging_lease_renewed_total"),
            streams: started("Watch") + started("LeaseKeepAlive"),
            watch_requests: watch("grpc_server_msg_received_total"),
            watch_answers: watch("grpc_server_msg_sent_total"),
            watchers: etcd.metric("etcd_debugging_mvcc_watcher_total"),
        }
    }

    /// Without what must go on: the renewals.
    fn at_rest(self) -> Self {
        Self {
            keep_alives: 0.0,
            ..self
        }
    }
}

#[test]
fn an_idle_mesh_only_renews_its_leases() {
    let etcd = Etcd::start();
    let settings = || settings(&etcd).ttl(TTL);
    let server = || Server::new("idle").function("echo", echo).version("1.4.2");
    let peers: Vec<InProcess> = (0..PEERS)
        .map(|_| InProcess::start(server(), settings().zone("z".into())))
        .collect();
    // One of them is not ready.
    peers[1].peer.set_ready(false);
    let published = || {
        etcd.etcdctl(&["get", "--print-value-only", "--prefix", "/pipelines/idle/"])
            .matches("endpoint")
            .count()
    };
    eventually("all are published", in_process::SOON, || {
        (published() == peers.len() - 1).then_some(())
    });
    // A peer opens its stream for the first renewal.
    let kept = || {
        etcd.metric_where(
            "grpc_server_started_total",
            "grpc_method=\"LeaseKeepAlive\"",
        ) >= f64::from(PEERS)
    };
    eventually(
        "every lease has been renewed once",
        in_process::SOON,
        || kept().then_some(()),
    );

    let before = Counts::of(&etcd);
    let start = Instant::now();
    thread::sleep(IDLE);
    let after = Counts::of(&etcd);
    let took = start.elapsed();

    assert_eq!(
        before.at_rest(),
        after.at_rest(),
        "an idle mesh did more than renew its leases"
    );
    let renewals = after.keep_alives - before.keep_alives;
    // Each lease is renewed a third of its TTL after the last renewal: one more may fall into
    // the time than fits.
    let most = |ttl: Duration| (took.as_secs_f64() / (ttl.as_secs_f64() / 3.0)).floor() + 1.0;
    let most = f64::from(PEERS) * most(TTL);
    println!(
        "{PEERS} idle peers, {took:.1?}: {renewals} renewals of leases, at most {most} expected, and nothing else"
    );
    assert!(
        renewals <= most,
        "{renewals} renewals are more than one in a third of each TTL, {most}"
    );
    assert!(
        renewals >= most * 0.75,
        "{renewals} renewals are too few for {PEERS} leases of {TTL:?}"
    );
}

/// What a peer costs etcd while nothing happens: streams, and the goroutines that serve them. (Each
/// Watch RPC is some four goroutines, each connection some three.)
#[test]
fn a_peer_costs_etcd_one_watch_stream() {
    const MANY: u32 = 100;
    crate::heavy();
    let etcd = Etcd::start();
    let goroutines = || etcd.metric("go_goroutines");
    let open = |method: &str| {
        let label = format!("grpc_method=\"{method}\"");
        etcd.metric_where("grpc_server_started_total", &label)
            - etcd.metric_where("grpc_server_handled_total", &label)
    };
    let (before, watching) = (goroutines(), open("Watch"));
    let server = || Server::new("idle").function("echo", echo);
    let peers: Vec<InProcess> = (0..MANY)
        .map(|_| InProcess::start(server(), settings(&etcd)))
        .collect();
    let settled = || open("LeaseKeepAlive") >= f64::from(MANY);
    eventually(
        "every lease has been renewed once",
        in_process::SOON,
        || settled().then_some(()),
    );
    let each = |count: f64| count / f64::from(MANY);
    let (streams, cost) = (each(open("Watch") - watching), each(goroutines() - before));
    println!(
        "{} peers: {streams:.2} Watch RPCs and {cost:.1} goroutines each at etcd",
        peers.len()
    );
    assert!(streams <= 1.05, "{streams} Watch RPCs for each peer");
    assert!(cost <= 10.0, "{cost} goroutines at etcd for each peer");
}
