//! Fencing: a leader that was frozen, or cut off from etcd, past its lease writes nothing any more,
//! and follows its successor.

// Tests fail by panicking.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use crate::common::{Mesh, QUICK, SOON, Server, history::Event};
use palm_tests::{Etcd, Proxy, eventually};
/// Takes the leader away, waits for its successor, brings it back, and checks who wrote what.
fn a_leader_that_was_away_follows(away: impl Fn(&Server, &Proxy), back: impl Fn(&Server, &Proxy)) {
    let etcd = Etcd::start();
    let between = Proxy::start(etcd.address());
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let old = mesh.start_at("printf", &between.endpoint());
    mesh.await_published(&[&old.uuid]);
    let others = mesh.start_in_line("printf", 2);
    let (key, leader) = mesh.leading().expect("a leader");
    assert_eq!(leader, old.uuid);

    away(&old, &between);
    mesh.await_lead(&others[0].uuid, SOON);
    let obituary = format!("Deleted server {} because its lease expired", old.uuid);
    others[0].wait_for_line(|line| line.ends_with(&obituary), SOON);
    // There is something that the old leader would like to configure, and something that it
    // would like to remove.
    let newcomer = mesh.start("printf");
    others[1].kill();
    mesh.await_published(&[&others[0].uuid, &newcomer.uuid]);
    back(&old, &between);
    mesh.await_published(&[&old.uuid, &others[0].uuid, &newcomer.uuid]);

    let events = mesh.history().events();
    let deposed = events
        .iter()
        .find(|event| event.key == key && event.deleted)
        .expect("its lease expired")
        .revision;
    for event in events.iter().filter(|event| event.revision > deposed) {
        check_writer(event, &old, &events);
    }
    let stands_anew =
        |event: &Event| event.key.starts_with("/election/") && event.value == old.uuid;
    eventually("the old leader stands in line", SOON, || {
        mesh.state().values().any(stands_anew).then_some(())
    });
    assert_eq!(mesh.leading().expect("a leader").1, others[0].uuid);
    old.wait_for_line(|line| line.ends_with("Deposed"), SOON);
    eventually("the old leader's record says who leads", SOON, || {
        let record = mesh.state().get(&format!("/servers/{}", old.uuid))?.json();
        (record["leader"] == others[0].uuid.as_str() && record["configured"] == true).then_some(())
    });
    // All is well: the next in line leads when this leader goes.
    others[0].kill();
    mesh.await_lead(&newcomer.uuid, SOON);
    mesh.await_published(&[&old.uuid, &newcomer.uuid]);
}

/// A leader shows in what it writes: records name it, and a server is published with its record.
fn check_writer(event: &Event, old: &Server, events: &[Event]) {
    if event.key.starts_with("/servers/") && !event.deleted {
        assert_ne!(
            event.json()["leader"],
            old.uuid.as_str(),
            "written by a leader that was deposed: {event:?}"
        );
    }
    if event.key.starts_with("/pipelines/") && !event.deleted {
        let uuid = event.key.rsplit('/').next().expect("a uuid");
        let beside = |other: &&Event| {
            other.revision == event.revision && other.key == format!("/servers/{uuid}")
        };
        let record = events
            .iter()
            .find(beside)
            .expect("a record in the same transaction");
        assert_ne!(
            record.json()["leader"],
            old.uuid.as_str(),
            "published by a leader that was deposed: {event:?}"
        );
        assert_eq!(
            record.lease, event.lease,
            "published on the lease of the server"
        );
    }
}

#[test]
fn a_leader_frozen_past_its_lease_writes_nothing() {
    let thaw = |old: &Server, _: &Proxy| {
        let mark = old.mark();
        old.thaw();
        // It does not blame etcd.
        let (line, _) =
            old.wait_for_line_after(mark, |line| line.contains("etcd is in doubt"), SOON);
        assert!(line.contains("stood still"), "{line}");
        old.wait_for_line_after(
            mark,
            |line| line.contains("no longer leading the mesh"),
            SOON,
        );
    };
    a_leader_that_was_away_follows(|old, _| old.freeze(), thaw);
}

#[test]
fn a_leader_cut_off_from_etcd_writes_nothing() {
    a_leader_that_was_away_follows(|_, between| between.cut(), |_, between| between.pass());
}

#[test]
fn a_leader_whose_path_to_etcd_stalled_writes_nothing() {
    a_leader_that_was_away_follows(|_, between| between.stall(), |_, between| between.pass());
}

/// The fence itself: a write that was sent while its leader led, and arrives when another
/// does, fails in etcd.
#[test]
fn a_late_write_of_a_deposed_leader_fails() {
    let etcd = Etcd::start();
    let between = Proxy::start(etcd.address());
    let flags = ["--probe-period", "0.3", "--probe-timeout", "0.3"];
    let mesh = Mesh::new(&etcd, "/mesh", &flags);
    let old = mesh.start_at("printf", &between.endpoint());
    mesh.await_published(&[&old.uuid]);
    let successor = mesh.start_in_line("printf", 1).remove(0);

    // A server of another mesh, registered in this one by hand, behind a proxy that
    // the test can stall.
    let elsewhere = Mesh::new(&etcd, "/elsewhere", &flags);
    let guest = elsewhere.start_in_line("printf", 1).remove(0);
    let address = guest
        .endpoint
        .trim_start_matches("tcp://")
        .parse()
        .expect("an address");
    let proxy = Proxy::start(address);
    proxy.stall();
    let mut record = elsewhere.state()[&format!("/servers/{}", guest.uuid)].json();
    record["ports"][0] = proxy.address().port().into();
    record["configured"] = false.into();
    record["leader"] = serde_json::Value::Null;
    let lease = etcd.etcdctl(&["lease", "grant", "600"]);
    let lease = lease.split_whitespace().nth(1).expect("a lease");
    let guest_key = format!("/servers/{}", guest.uuid);
    etcd.etcdctl(&[
        "put",
        &mesh.key(&guest_key),
        &record.to_string(),
        &format!("--lease={lease}"),
    ]);
    old.wait_for_line(
        |line| line.contains(&format!("Server {} stays unconfigured", guest.uuid)),
        SOON,
    );

    // The leader learns that the server answers; its write does not arrive.
    let mark = old.mark();
    let successors = successor.mark();
    let (key, _) = mesh.leading().expect("a leader");
    between.stall();
    proxy.pass();
    let probed = format!("{}/printf/registered", guest.uuid);
    old.wait_for_line_after(mark, |line| line.contains(&probed), SOON);
    proxy.stall();
    etcd.etcdctl(&["del", &mesh.key(&key)]);
    successor.wait_for_line_after(
        successors,
        |line| line.contains("leading the mesh, in term"),
        SOON,
    );
    // Now it does.
    between.pass();
    old.wait_for_line_after(mark, |line| line.ends_with("Deposed"), SOON);
    mesh.await_published(&[&old.uuid, &successor.uuid]);
    let guest_now = mesh.state()[&guest_key].clone();
    assert_eq!(
        guest_now.json()["configured"],
        false,
        "a deposed leader configured a server: {guest_now:?}"
    );
    proxy.pass();
    mesh.await_published(&[&guest.uuid]);
    assert_eq!(mesh.leading().expect("a leader").1, successor.uuid);
}

#[test]
fn keys_of_no_candidate_do_not_hide_the_leader() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let leader = mesh.start_in_line("printf", 1).remove(0);
    for i in 0..10 {
        etcd.etcdctl(&["put", &mesh.key(&format!("/election/junk{i}")), "junk"]);
    }
    let next = mesh.start_in_line("printf", 1).remove(0);
    assert_eq!(next.lines_with("leading the mesh, in term"), [""; 0]);
    leader.kill();
    next.wait_for_line(|line| line.contains("leading the mesh, in term"), SOON);
}
