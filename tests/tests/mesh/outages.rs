//! etcd stops, loses a member, changes its leader or loses its history: clients and servers with
//! open links continue, no server is removed, and all are listed again afterwards.

// Tests fail by panicking.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use crate::common::{Mesh, QUICK, SOON, Server, calls::Calls};
use futures::executor::block_on;
use palm_peer::{Client, ErrorKind};
use palm_tests::{Etcd, EtcdCluster, Proxy, eventually};
use std::{
    thread,
    time::{Duration, Instant},
};

/// For what takes a lease's time after etcd is back, on a busy machine.
const BACK: Duration = Duration::from_secs(40);

fn uuids(servers: &[Server]) -> Vec<&str> {
    servers.iter().map(|server| server.uuid.as_str()).collect()
}

fn nobody_was_removed(servers: &[Server]) {
    for server in servers {
        let removals = [
            server.lines_with("Deleted server"),
            server.lines_with("missed probe"),
        ]
        .concat();
        assert!(removals.is_empty(), "{removals:?}");
        assert!(server.is_running());
    }
}

/// What is registered now, by a fresh look at etcd.
fn registered(etcd: &Etcd) -> Vec<String> {
    let keys = etcd.etcdctl(&["get", "--prefix", "--keys-only", "/mesh/servers/"]);
    let mut uuids: Vec<_> = keys
        .split_whitespace()
        .map(|key| key.replace("/mesh/servers/", ""))
        .collect();
    uuids.sort();
    uuids
}

#[test]
fn a_half_minute_etcd_outage_fails_no_call() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let servers = mesh.start_in_line("printf", 3);
    let calls = Calls::start(mesh.options());
    etcd.stop();
    for server in &servers {
        let (line, _) = server.wait_for_line(|line| line.contains("etcd is in doubt"), SOON);
        assert!(
            line.contains(&etcd.endpoint()),
            "it says which etcd, and what is wrong with it: {line}"
        );
    }
    thread::sleep(Duration::from_secs(18));
    let start = Instant::now();
    etcd.restart();
    let again = Mesh::new(&etcd, "/mesh", &[]);
    again.await_published_within(&uuids(&servers), BACK);
    println!(
        "all are listed again {:.1?} after etcd is back",
        start.elapsed()
    );
    for server in &servers {
        server.wait_for_line(
            |line| line.contains("etcd is back") || line.contains("rejoined as"),
            BACK,
        );
    }
    let newcomer = again.start("printf");
    again.await_published(&[&newcomer.uuid]);
    let client = calls.client().clone();
    eventually("the client hears of the newcomer", BACK, || {
        client
            .reachable()
            .iter()
            .any(|server| server.instances == 4)
            .then_some(())
    });
    calls.all_went_well(300);
    nobody_was_removed(&servers);
    let mut expected = uuids(&servers);
    expected.push(&newcomer.uuid);
    expected.sort_unstable();
    assert_eq!(
        registered(&etcd),
        expected,
        "the same servers as before, and the newcomer"
    );
}

#[test]
fn servers_leave_and_clients_give_up_during_an_etcd_outage() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let mut servers = mesh.start_in_line("printf", 2);
    let early = servers.remove(0);
    etcd.stop();
    let start = Instant::now();
    early.terminate();
    let status = early.wait(SOON);
    println!(
        "a leader leaves within {:.1?} while etcd is just gone",
        start.elapsed()
    );
    assert!(status.success(), "{:?}", early.lines());
    let late = servers.remove(0);
    late.wait_for_line(|line| line.contains("etcd is in doubt"), SOON);
    let start = Instant::now();
    late.interrupt();
    let status = late.wait(SOON);
    println!(
        "a server leaves within {:.1?} while etcd is gone for long",
        start.elapsed()
    );
    assert!(status.success(), "{:?}", late.lines());

    let start = Instant::now();
    let error = block_on(Client::connect(mesh.options())).expect_err("there is no etcd");
    assert_eq!(error.kind(), ErrorKind::EtcdUnreachable);
    assert!(
        error.to_string().contains(&etcd.address().to_string()),
        "{error}"
    );
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

/// A mesh on three members, with calls going on, while something happens to the members.
fn on_three_members(happens: impl Fn(&EtcdCluster)) {
    let cluster = EtcdCluster::start();
    let endpoints = cluster.endpoints().join(",");
    let survivor = cluster.member(2);
    let mesh = Mesh::new(survivor, "/mesh", &[]);
    let start = |_| {
        let server = mesh.start_at("printf", &endpoints);
        mesh.await_published(&[&server.uuid]);
        server
    };
    let mut servers: Vec<_> = (0..3).map(start).collect();
    let mut settings = palm_peer::Config::clone(&mesh.options());
    settings.set("etcd", &endpoints).expect("URLs");
    let calls = Calls::start(settings);
    happens(&cluster);
    servers.push(start(0));
    let again = Mesh::new(survivor, "/mesh", &[]);
    again.await_published_within(&uuids(&servers), BACK);
    calls.all_went_well(20);
    nobody_was_removed(&servers);
    let mut expected = uuids(&servers);
    expected.sort_unstable();
    assert_eq!(registered(survivor), expected);
}

#[test]
fn a_member_of_etcd_is_killed_and_restarted() {
    on_three_members(|cluster| {
        cluster.move_leader_to(0);
        cluster.member(0).kill();
        let _ = cluster.leader();
        // Longer than a lease: servers that were connected to the dead member must use another one
        // by then.
        thread::sleep(Duration::from_secs(12));
        cluster.member(0).restart();
        cluster.member(1).kill();
        let _ = cluster.leader();
        thread::sleep(Duration::from_secs(3));
        cluster.member(1).restart();
    });
}

#[test]
fn a_member_of_etcd_is_frozen_for_longer_than_a_lease() {
    on_three_members(|cluster| {
        cluster.move_leader_to(2);
        cluster.member(0).freeze();
        thread::sleep(Duration::from_secs(13));
        cluster.member(0).thaw();
    });
}

#[test]
fn etcds_leader_moves() {
    on_three_members(|cluster| {
        for i in [0, 1, 2, 0] {
            cluster.move_leader_to(i);
            thread::sleep(Duration::from_millis(700));
        }
    });
}

/// Makes etcd forget all but its present.
fn compact(etcd: &Etcd) {
    let revision = etcd.etcdctl(&["get", "x", "--write-out=fields"]);
    let revision = revision
        .lines()
        .find_map(|line| line.strip_prefix("\"Revision\" : "))
        .expect("a revision")
        .to_owned();
    etcd.etcdctl(&["compact", "--physical", &revision]);
}

#[test]
fn a_compaction_during_an_outage_is_reconciled() {
    let etcd = Etcd::start();
    let between = Proxy::start(etcd.address());
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let leader = mesh.start_at("printf", &between.endpoint());
    mesh.await_published(&[&leader.uuid]);
    let leaves = mesh.start_in_line("printf", 1).remove(0);
    let calls = Calls::start(mesh.options_at(&between.endpoint()));
    between.cut();
    leaves.terminate();
    leaves.wait(SOON);
    let newcomer = mesh.start("printf");
    for i in 0..5 {
        etcd.etcdctl(&["put", "/mesh/noise", &i.to_string()]);
    }
    compact(&etcd);
    between.pass();
    mesh.await_published(&[&leader.uuid, &newcomer.uuid]);
    assert_eq!(
        mesh.leading().expect("a leader").1,
        leader.uuid,
        "a cut shorter than the lease costs no lead"
    );
    let words = format!("Deleted server {} because it killed itself", leaves.uuid);
    leader.wait_for_line(|line| line.contains(&words), SOON);
    let client = calls.client().clone();
    eventually(
        "the client knows of the newcomer, and not of who left",
        SOON,
        || {
            let reachable = client.reachable();
            let both = reachable
                .iter()
                .any(|server| server.server == "printf" && server.instances == 2);
            let target = format!("{}.printf", newcomer.uuid);
            (both && block_on(client.call(target, "hello").into_future()).is_ok()).then_some(())
        },
    );
    calls.all_went_well(10);
}

#[test]
fn a_server_removed_while_cut_off_stays_out_despite_compaction() {
    let etcd = Etcd::start();
    let between = Proxy::start(etcd.address());
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let leader = mesh.start_in_line("printf", 1).remove(0);
    let removed = mesh.start_at("printf", &between.endpoint());
    let reset = mesh.start_at("printf", &between.endpoint());
    mesh.await_published(&[&leader.uuid, &removed.uuid, &reset.uuid]);
    between.cut();
    mesh.remove(&removed.uuid);
    etcd.etcdctl(&["put", "/mesh/noise", "1"]);
    compact(&etcd);
    between.pass();
    assert_eq!(removed.wait(SOON).code(), Some(77), "{:?}", removed.lines());

    between.cut();
    mesh.reset();
    compact(&etcd);
    between.pass();
    mesh.await_published(&[&leader.uuid, &reset.uuid]);
    assert!(!mesh.is_registered(&removed.uuid));
}
