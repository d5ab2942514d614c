//! The candidate that is next in line watches the leader over a link: what that link tells it when
//! it is swallowed, and what the lease in etcd decides.

use super::client::start_with;
use crate::common::{Mesh, QUICK, SOON, Server, history::Event};
use palm_tests::{Etcd, Network, eventually};
use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

/// The lease's time to live of [`QUICK`].
const TTL: Duration = Duration::from_secs(3);
/// How much longer than the design's bounds a busy machine may take.
const LENIENCE: Duration = Duration::from_secs(4);

/// Three hosts with a server each, the first of which leads; the second is next in line.
fn start<'a>(network: &Network, etcd: &'a Etcd) -> (Mesh<'a>, [Server; 3]) {
    let mesh = Mesh::new(etcd, "/mesh", &[]);
    let servers =
        ["a", "b", "c"].map(|host| start_with(&mesh, etcd, network.host(host), "printf", &QUICK));
    mesh.await_lead(&servers[0].uuid, SOON);
    (mesh, servers)
}

fn address(server: &Server) -> SocketAddrV4 {
    server
        .endpoint
        .trim_start_matches("tcp://")
        .parse()
        .expect("an address")
}

fn await_watch(network: &Network, leader: &Server) {
    let next = network.host("b");
    eventually("the next in line watches the leader", SOON, || {
        (!next.flows_to(&leader.endpoint).is_empty()).then_some(())
    });
}

/// The revision at which each candidate stood up, by key.
fn candidacies(mesh: &Mesh<'_>) -> Vec<(String, i64)> {
    let candidates = mesh
        .state()
        .into_iter()
        .filter(|(key, _)| key.starts_with("/election/"));
    candidates
        .map(|(key, Event { created, .. })| (key, i64::try_from(created).expect("a revision")))
        .collect()
}

#[test]
fn a_candidate_that_cannot_reach_the_leader_does_not_take_over() {
    let Some(network) = Network::start(&["a", "b", "c"]) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let (mesh, [leader, next, other]) = start(&network, &etcd);
    await_watch(&network, &leader);
    let stood = candidacies(&mesh);

    // All that the next in line sends to the leader's port, and all that comes back, on old
    // connections and new ones. The leader reaches everybody, and all reach etcd.
    network.black_hole_endpoint(network.host("b"), address(&leader));
    let dead = |line: &str| {
        line.contains(&leader.uuid) && line.contains("is dead: what is sent is not acknowledged")
    };
    next.wait_for_line(dead, SOON);
    let since = Instant::now();
    while since.elapsed() < TTL * 3 {
        assert_eq!(
            candidacies(&mesh),
            stood,
            "nobody stands down, nobody stands anew"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    for server in [&leader, &next, &other] {
        assert!(mesh.is_registered(&server.uuid));
        assert!(
            server.lines_with("Deleted server").is_empty(),
            "{:?}",
            server.lines()
        );
    }

    // After healing it watches again: it notices the leader's end sooner than the lease would.
    network.heal();
    await_watch(&network, &leader);
    let killed = Instant::now();
    leader.kill();
    mesh.await_lead(&next.uuid, SOON);
    eprintln!(
        "the next in line leads {:?} after the leader was killed",
        killed.elapsed()
    );
    assert!(
        killed.elapsed() < Duration::from_secs(1) + LENIENCE,
        "{:?}",
        killed.elapsed()
    );
    mesh.await_published(&[&next.uuid, &other.uuid]);
}

#[test]
fn a_vanished_leader_is_replaced_and_returns_as_a_server() {
    let Some(network) = Network::start(&["a", "b", "c"]) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let (mesh, [leader, next, other]) = start(&network, &etcd);
    await_watch(&network, &leader);

    network.cut_off(network.host("a"));
    let cut = Instant::now();
    mesh.await_lead(&next.uuid, SOON);
    eprintln!(
        "the next in line leads {:?} after the leader's host vanished",
        cut.elapsed()
    );
    assert!(
        cut.elapsed() < TTL + Duration::from_secs(2) + LENIENCE,
        "{:?}",
        cut.elapsed()
    );
    mesh.await_published(&[&next.uuid, &other.uuid]);

    network.heal();
    mesh.await_published_within(&[&leader.uuid, &next.uuid, &other.uuid], SOON * 2);
    assert_eq!(
        mesh.leading().map(|(_, uuid)| uuid),
        Some(next.uuid.clone()),
        "the lead stays"
    );
    // And the one after the next is watched over in turn.
    next.terminate();
    assert!(next.wait(SOON).success());
    mesh.await_lead(&other.uuid, SOON);
    mesh.await_published(&[&leader.uuid, &other.uuid]);
}

/// The last of them was the fourth in line when it listed those before it. It did not notice that
/// it had become the third: when both before it were killed, it waited for their leases, which are
/// the default's here.
#[test]
fn a_new_third_candidate_watches_the_leader_and_the_next() {
    let hosts = ["a", "b", "c", "d", "e"];
    let Some(network) = Network::start(&hosts) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    // The last one bears witness.
    let [first, leader, next, third, _other] =
        hosts.map(|host| start_with(&mesh, &etcd, network.host(host), "printf", &[]));
    first.terminate();
    mesh.await_lead(&leader.uuid, SOON);
    for server in [&leader, &next] {
        eventually("the third in line watches those before it", SOON, || {
            (!network.host("d").flows_to(&server.endpoint).is_empty()).then_some(())
        });
    }
    let killed = Instant::now();
    leader.kill();
    next.kill();
    mesh.await_lead(&third.uuid, SOON);
    eprintln!(
        "the third leads {:?} after both before it were killed",
        killed.elapsed()
    );
    assert!(
        killed.elapsed() < Duration::from_secs(2) + LENIENCE,
        "{:?}",
        killed.elapsed()
    );
}
