//! Which servers are removed, by what, and which register again: revoked leases, records removed by
//! hand, resets, unresponsive servers.

// Tests fail by panicking.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use crate::common::{self, Mesh, QUICK, SOON};
use futures::{StreamExt as _, executor::block_on, future};
use palm_peer::{Client, ErrorKind, FunctionError, Message, Peer, PeerEvent, Server};
use palm_tests::{Etcd, eventually};
use std::{
    thread,
    time::{Duration, Instant},
};

/// What the design gives a server to be back.
const BACK: Duration = Duration::from_secs(2);
/// What a test gives it: the machine may be busy.
const GENEROUS: Duration = Duration::from_secs(6);
/// The exit status of a server that a person removed.
const EVICTED: i32 = 77;

fn lease_of(mesh: &Mesh<'_>, uuid: &str) -> u64 {
    mesh.state()[&format!("/servers/{uuid}")].lease
}

fn report(what: &str, took: Duration) {
    println!("{what}: {took:.1?} (design: {BACK:?})");
    assert!(took < GENEROUS, "{what} took {took:?}");
}

async fn echo(message: Message) -> Result<palm_peer::Bytes, FunctionError> {
    Ok(message.into_payload())
}

/// Joins within the test.
fn join(mesh: &Mesh<'_>) -> Peer {
    block_on(
        Server::new("within")
            .function("echo", echo)
            .join(mesh.options()),
    )
    .expect("joins")
}

/// Waits for an event of a peer within the test.
fn await_event(events: &mut (impl futures::Stream<Item = PeerEvent> + Unpin), wanted: PeerEvent) {
    let found = block_on(async {
        events
            .by_ref()
            .any(|event| future::ready(event == wanted))
            .await
    });
    assert!(found, "the peer ended without {wanted:?}");
}

#[test]
fn a_server_whose_lease_is_revoked_rejoins_with_its_uuid() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let servers = mesh.start_in_line("printf", 3);
    let uuids: Vec<_> = servers.iter().map(|server| server.uuid.as_str()).collect();
    // The leader, the next in line, and the last.
    for server in &servers {
        let lease = lease_of(&mesh, &server.uuid);
        let start = Instant::now();
        etcd.etcdctl(&["lease", "revoke", &format!("{lease:x}")]);
        eventually("the server is back under another lease", SOON, || {
            let state = mesh.state();
            state
                .get(&format!("/servers/{}", server.uuid))
                .filter(|record| record.lease != lease)
                .map(drop)
        });
        mesh.await_published(&uuids);
        report("back after a revoked lease", start.elapsed());
        assert!(server.is_running());
    }
    assert_eq!(
        mesh.leading().expect("a leader").1,
        servers[0].uuid,
        "the lead went once round"
    );
}

#[test]
fn a_removed_server_stays_out_and_exits_with_77() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let servers = mesh.start_in_line("printf", 5);
    let by_hand = |uuid: &str| drop(etcd.etcdctl(&["del", &mesh.key(&format!("/servers/{uuid}"))]));
    let by_command = |uuid: &str| mesh.remove(uuid);
    // Followers first, then the leader.
    #[allow(clippy::type_complexity)]
    let cases: [(usize, &dyn Fn(&str)); 4] = [
        (4, &by_command),
        (3, &by_hand),
        (0, &by_command),
        (1, &by_hand),
    ];
    for (which, remove) in cases {
        let server = &servers[which];
        remove(&server.uuid);
        assert_eq!(
            server.wait(SOON).code(),
            Some(EVICTED),
            "{:?}",
            server.lines()
        );
        server.wait_for_line(
            |line| line.contains("was removed from the mesh by an administrator"),
            SOON,
        );
        assert!(!mesh.is_registered(&server.uuid));
        if which > 2 {
            let words = format!(
                "Deleted server {} because an administrator removed it",
                server.uuid
            );
            servers[0].wait_for_line(|line| line.ends_with(&words), SOON);
        }
    }
    mesh.await_lead(&servers[2].uuid, SOON);
    mesh.await_published(&[&servers[2].uuid]);
    let state = mesh.state();
    let left: Vec<_> = state
        .keys()
        .filter(|key| key.starts_with("/servers/"))
        .collect();
    assert_eq!(
        left,
        [&format!("/servers/{}", servers[2].uuid)],
        "only the last is left"
    );
    eventually("clients are told of no removed server", SOON, || {
        let state = mesh.state();
        let pipelines = state
            .iter()
            .filter(|(key, _)| key.starts_with("/pipelines/"));
        let told: String = pipelines
            .map(|(_, pipeline)| pipeline.value.as_str())
            .collect();
        servers
            .iter()
            .all(|server| told.contains(&server.uuid) == (server.uuid == servers[2].uuid))
            .then_some(())
    });
    let words = |server: &common::Server| {
        format!(
            "Deleted server {} because an administrator removed it",
            server.uuid
        )
    };
    for removed in [&servers[4], &servers[3]] {
        servers[0].wait_for_the_one_line_with(&words(removed));
    }
}

#[test]
fn a_removed_peer_ends_with_evicted() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    for by_hand in [false, true] {
        let peer = join(&mesh);
        let mut events = peer.events();
        let uuid = peer.uuid().to_string();
        thread::scope(|scope| {
            let serving = scope.spawn(|| block_on(peer.serve(future::pending::<()>())));
            mesh.await_published(&[&uuid]);
            if by_hand {
                etcd.etcdctl(&["del", &mesh.key(&format!("/servers/{uuid}"))]);
            } else {
                mesh.remove(&uuid);
            }
            let error = serving.join().expect("no panic").expect_err("serving ends");
            assert_eq!(error.kind(), ErrorKind::Evicted, "{error}");
            assert!(error.to_string().contains(&uuid), "{error}");
        });
        await_event(&mut events, PeerEvent::Evicted);
        let state = peer.state();
        assert!(
            state.evicted && !state.attached && !state.leading && !state.configured,
            "{state:?}"
        );
        let again = block_on(peer.serve(future::pending::<()>())).expect_err("it has left");
        assert_eq!(again.kind(), ErrorKind::AlreadyServing);
        eventually("no trace of it is left", SOON, || {
            let state = mesh.state();
            let trace = |key: &String| !key.starts_with("/departed/");
            (!state.keys().any(trace)).then_some(())
        });
    }
}

#[test]
fn a_reset_brings_all_back_at_once_with_their_uuids() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let servers = mesh.start_in_line("printf", 4);
    let uuids: Vec<_> = servers.iter().map(|server| server.uuid.as_str()).collect();
    for _ in 0..3 {
        let start = Instant::now();
        let mark = mesh.history().mark();
        mesh.reset();
        mesh.history()
            .await_event(mark, |event| event.key == "/reset", SOON);
        mesh.await_published(&uuids);
        report("all are back after a reset", start.elapsed());
    }
    assert!(servers.iter().all(|server| server.is_running()));
}

#[test]
fn a_server_removed_for_a_blocked_executor_rejoins() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    // One that leads, and removes itself; and one that follows.
    let servers = mesh.start_in_line("sleepy", 2);
    let client = block_on(Client::connect(mesh.options())).expect("connects");
    for (before, server) in servers.iter().enumerate() {
        let mark = mesh.history().mark();
        let target = format!("{}.block", server.uuid);
        let start = Instant::now();
        let call = client.call(target, "9").timeout(Duration::from_secs(30));
        thread::scope(|scope| {
            let calling = scope.spawn(|| block_on(call.into_future()));
            let record = format!("/servers/{}", server.uuid);
            mesh.history()
                .await_event(mark, |event| event.key == record && event.deleted, SOON);
            assert!(
                start.elapsed() < Duration::from_secs(9),
                "removed only once it was awake"
            );
            server.wait_for_line(
                |line| line.contains("executor of the functions has been blocked"),
                SOON,
            );
            server.wait_for_line(
                |line| line.contains("because it did not answer; it rejoins"),
                SOON,
            );
            assert_eq!(
                calling
                    .join()
                    .expect("no panic")
                    .expect("an answer in the end"),
                "awake"
            );
        });
        mesh.await_published(&[&servers[0].uuid, &servers[1].uuid]);
        let words = format!("Deleted server {} because it does not answer", server.uuid);
        servers[0].wait_for_the_one_line_with(&words);
        let deleted = servers[0].lines_with("Deleted server").len();
        assert_eq!(
            deleted,
            before + 1,
            "the blocked server is removed, and no other: {:?}",
            servers[0].lines()
        );
    }
    assert_eq!(
        mesh.leading().expect("a leader").1,
        servers[0].uuid,
        "a mute leader keeps its lease, and so the lead"
    );
}

#[test]
fn a_leader_whose_key_is_deleted_hands_over() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let servers = mesh.start_in_line("printf", 3);
    let uuids: Vec<_> = servers.iter().map(|server| server.uuid.as_str()).collect();
    for round in 0..4 {
        let (key, leader) = mesh.leading().expect("a leader");
        assert_eq!(leader, uuids[round % 3], "the lead goes round");
        etcd.etcdctl(&["del", &mesh.key(&key)]);
        mesh.await_lead(uuids[(round + 1) % 3], SOON);
        mesh.await_published(&uuids);
        eventually("the deposed leader stands again", SOON, || {
            mesh.state()
                .values()
                .any(|event| event.key == key && event.value == leader)
                .then_some(())
        });
    }
    let deleted = servers
        .iter()
        .flat_map(|server| server.lines_with("Deleted server"));
    assert_eq!(deleted.count(), 0, "no server was removed");
}

#[test]
fn a_lone_leader_whose_key_is_deleted_leads_again() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let server = mesh.start("printf");
    mesh.await_published(&[&server.uuid]);
    let mark = mesh.history().mark();
    let (key, _) = mesh.leading().expect("a leader");
    etcd.etcdctl(&["del", &mesh.key(&key)]);
    mesh.history()
        .await_event(mark, |event| event.key == key && !event.deleted, SOON);
    let newcomer = mesh.start("printf");
    mesh.await_published(&[&server.uuid, &newcomer.uuid]);
}

#[test]
fn a_process_found_gone_is_logged_once() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let servers = mesh.start_in_line("printf", 4);
    // A follower, the leader, and the leader after it.
    for (killed, next) in [(3, 0), (0, 1), (1, 2)] {
        let mark = mesh.history().mark();
        servers[killed].kill();
        let record = format!("/servers/{}", servers[killed].uuid);
        mesh.history()
            .await_event(mark, |event| event.key == record && event.deleted, SOON);
        mesh.await_lead(&servers[next].uuid, SOON);
        let words = format!(
            "Deleted server {} because its process is gone",
            servers[killed].uuid
        );
        servers[next].wait_for_line(|line| line.ends_with(&words), SOON);
        let said: usize = servers
            .iter()
            .map(|server| server.lines_with(&words).len())
            .sum();
        assert_eq!(said, 1, "{words}");
    }
}
