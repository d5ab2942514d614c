//! A server is removed when no other reaches it, and not when only the leader does not. The path
//! between two hosts fails in several ways; etcd is reached by all.

use super::{
    client::start_with,
    stages::{HOSTS, Stages, goes_on},
};
use crate::common::{Mesh, QUICK, SOON, Server, calls::Calls};
use palm_tests::{Etcd, Host, Network, eventually, example};
use std::{
    net::SocketAddrV4,
    slice, thread,
    time::{Duration, Instant},
};

/// The lease's time to live of [`QUICK`], and how often it has servers probed.
const TTL: Duration = Duration::from_secs(3);
const PERIOD: Duration = Duration::from_secs(2);
/// How long three unanswered probes take, and asking the witnesses.
const SERIES: Duration = Duration::from_secs(4);
/// How much longer than the design's bounds a busy machine may take.
const LENIENCE: Duration = Duration::from_secs(6);

/// A server on each of these hosts, all of one name. The first one leads; the others are in
/// line in this order.
fn start<'a>(
    network: &Network,
    etcd: &'a Etcd,
    hosts: &[&str],
    flags: &[&str],
) -> (Mesh<'a>, Vec<Server>) {
    let mesh = Mesh::new(etcd, "/mesh", &[]);
    let start = |host: &&str| {
        let server = start_with(&mesh, etcd, network.host(host), "printf", flags);
        mesh.await_in_line(&server.uuid);
        server
    };
    let servers: Vec<_> = hosts.iter().map(start).collect();
    mesh.await_lead(&servers[0].uuid, SOON);
    (mesh, servers)
}

fn revision(etcd: &Etcd) -> u64 {
    let fields = etcd.etcdctl(&["get", "/revision", "--write-out=fields"]);
    let revision = fields
        .lines()
        .find_map(|line| line.strip_prefix("\"Revision\" : "));
    revision.expect("a revision").parse().expect("a number")
}

/// Waits until the mesh has nothing more to write; then nothing changes for a while.
fn nothing_flaps(etcd: &Etcd) {
    eventually("etcd's revision stays for two periods", SOON, || {
        let before = revision(etcd);
        thread::sleep(PERIOD * 2);
        (revision(etcd) == before).then_some(())
    });
    let before = revision(etcd);
    thread::sleep(TTL * 2);
    assert_eq!(
        revision(etcd),
        before,
        "nothing is written while nothing happens"
    );
}

/// None of these was unregistered or unpublished, at any time.
fn were_never_removed(mesh: &Mesh<'_>, servers: &[Server]) {
    let removed = mesh.history().events().into_iter().filter(|event| {
        let of_server = event.key.starts_with("/servers/") || event.key.starts_with("/pipelines/");
        event.deleted
            && of_server
            && servers
                .iter()
                .any(|server| event.key.ends_with(&server.uuid))
    });
    let removed: Vec<_> = removed.collect();
    assert!(removed.is_empty(), "{removed:?}");
}

fn is_about(line: &str, words: &str, server: &Server) -> bool {
    line.contains(words) && line.contains(&server.uuid)
}

/// The path between the leader and one server fails as `fault` has it, which has the leader's host
/// and the server's.
fn a_server_that_the_leader_alone_does_not_reach_stays(fault: impl FnOnce(&Network, &Host, &Host)) {
    const HOSTS: [&str; 4] = ["a", "b", "c", "d"];
    let Some(network) = Network::start(&HOSTS) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let (mesh, servers) = start(&network, &etcd, &HOSTS, &QUICK);
    let [leader, next, _, other] = &servers[..] else {
        unreachable!()
    };
    let calls = Calls::start(mesh.options());

    fault(&network, network.host("a"), network.host("d"));
    let since = Instant::now();
    leader.wait_for_line(
        |line| {
            is_about(
                line,
                "check the network between this leader and that server",
                other,
            )
        },
        SOON,
    );
    let (line, resigned) = leader.wait_for_line(|line| line.contains("resigning as leader"), SOON);
    assert!(line.contains(&other.endpoint), "{line}");
    let took = resigned.saturating_duration_since(since);
    println!("the leader resigns after {took:.1?}");
    assert!(took < PERIOD * 3 + SERIES + LENIENCE, "{took:.1?}");
    mesh.await_lead(&next.uuid, SOON);
    let late = start_with(&mesh, &etcd, network.host("c"), "text", &QUICK);
    thread::sleep(PERIOD * 3);
    assert_eq!(
        mesh.leading().map(|(_, uuid)| uuid).as_ref(),
        Some(&next.uuid),
        "the successor reaches everybody"
    );

    network.heal();
    mesh.await_in_line(&leader.uuid);
    nothing_flaps(&etcd);
    assert_eq!(
        mesh.leading().map(|(_, uuid)| uuid).as_ref(),
        Some(&next.uuid),
        "the lead stays"
    );
    let all: Vec<_> = servers
        .iter()
        .chain([&late])
        .map(|server| server.uuid.as_str())
        .collect();
    mesh.await_published(&all);
    were_never_removed(&mesh, &servers);
    calls.all_went_well(100);
}

#[test]
fn a_path_that_drops_everything() {
    a_server_that_the_leader_alone_does_not_reach_stays(Network::cut);
}

#[test]
fn a_path_that_drops_what_the_leader_sends() {
    a_server_that_the_leader_alone_does_not_reach_stays(Network::cut_one_way);
}

#[test]
fn a_path_that_drops_what_the_server_sends() {
    a_server_that_the_leader_alone_does_not_reach_stays(|network, leader, other| {
        network.cut_one_way(other, leader);
    });
}

#[test]
fn a_firewall_that_rejects_what_the_leader_sends() {
    a_server_that_the_leader_alone_does_not_reach_stays(Network::reject);
}

#[test]
fn a_firewall_that_rejects_what_the_server_sends() {
    a_server_that_the_leader_alone_does_not_reach_stays(|network, leader, other| {
        network.reject(other, leader);
    });
}

#[test]
fn a_firewall_before_the_next_candidate_ends_no_leader() {
    const HOSTS: [&str; 4] = ["a", "b", "c", "d"];
    let Some(network) = Network::start(&HOSTS) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let (mesh, servers) = start(&network, &etcd, &HOSTS, &QUICK);
    let [leader, next, ..] = &servers[..] else {
        unreachable!()
    };
    let watches = || {
        eventually("the next in line watches the leader", SOON, || {
            (!network.host("b").flows_to(&leader.endpoint).is_empty()).then_some(())
        });
    };
    watches();
    let before = revision(&etcd);

    let endpoint: SocketAddrV4 = leader
        .endpoint
        .trim_start_matches("tcp://")
        .parse()
        .expect("an address");
    network.reject_endpoint(network.host("b"), endpoint);
    next.wait_for_line(
        |line| {
            is_about(
                line,
                "cannot be reached from here, but others reach it",
                leader,
            )
        },
        SOON,
    );
    thread::sleep(TTL * 3);
    assert_eq!(
        revision(&etcd),
        before,
        "nobody is removed, nobody stands anew"
    );

    // Then it watches again, and notices the leader's end before its lease ends.
    network.heal();
    watches();
    leader.kill();
    let killed = Instant::now();
    mesh.await_lead(&next.uuid, SOON);
    assert!(
        killed.elapsed() < Duration::from_secs(1) + LENIENCE,
        "{:?}",
        killed.elapsed()
    );
    were_never_removed(&mesh, &servers[1..]);
}

#[test]
fn an_unconnected_leader_removes_no_server_and_resigns() {
    let Some(network) = Network::start(&HOSTS) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let stages = Stages::start_with(&network, &etcd, &QUICK);
    let (mesh, leader) = (&stages.mesh, &stages.servers[0]);
    let printf = start_with(mesh, &etcd, network.host("two"), "printf", &QUICK);
    let calls = Calls::start(mesh.options());
    stages.while_a_job_runs(|progress| {
        for other in &HOSTS[1..] {
            network.cut(network.host("leader"), network.host(other));
        }
        let since = Instant::now();
        let (_, resigned) = leader.wait_for_line(|line| line.contains("resigning as leader"), SOON);
        let took = resigned.saturating_duration_since(since);
        println!("the leader resigns after {took:.1?}");
        assert!(took < PERIOD * 3 + SERIES + LENIENCE, "{took:.1?}");
        mesh.await_lead(&stages.servers[1].uuid, SOON);
        let late = start_with(mesh, &etcd, network.host("one"), "text", &QUICK);
        goes_on("cut off from all servers", progress, 1000, PERIOD * 3);

        network.heal();
        let all = [&leader.uuid, &printf.uuid, &late.uuid].map(String::as_str);
        mesh.await_published(&all);
        // It tried whether it reaches the others again after 1, 2, 4 s … and may have just
        // begun a long wait.
        mesh.await_in_line(&leader.uuid);
        nothing_flaps(&etcd);
        goes_on("healed", progress, 500, Duration::ZERO);
    });
    were_never_removed(mesh, &stages.servers[1..]);
    were_never_removed(mesh, slice::from_ref(&printf));
    calls.all_went_well(100);
}

/// Each finds itself, or nothing, at the address of the other one.
fn two_hosts_that_advertise_loopback(port: &str) {
    let Some(network) = Network::start(&["a", "b"]) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let [one, two] = ["a", "b"].map(|host| {
        let run = network
            .host(host)
            .builder(example("printf"))
            .args(["run", "--debug", "--port", port]);
        mesh.start_program(run.args(["--etcd", &etcd.endpoint()]).args(QUICK))
    });
    mesh.await_published(&[&one.uuid]);
    one.wait_for_line(
        |line| line.starts_with("WARN") && is_about(line, "set PALM_IP", &two),
        SOON,
    );
    let (before, since) = (revision(&etcd), Instant::now());
    while since.elapsed() < Duration::from_secs(20) {
        assert_eq!(
            mesh.leading().map(|(_, uuid)| uuid).as_ref(),
            Some(&one.uuid)
        );
        thread::sleep(Duration::from_millis(100));
    }
    let written = revision(&etcd) - before;
    println!("{written} revisions in {:.1?}", since.elapsed());
    assert!(
        written <= 3,
        "{written} revisions in {:.1?}",
        since.elapsed()
    );
    for server in [&one, &two] {
        assert!(
            server.lines_with("Deleted server").is_empty(),
            "{:?}",
            server.lines()
        );
        assert!(mesh.is_registered(&server.uuid));
    }
}

#[test]
fn two_hosts_advertising_loopback_remove_nobody() {
    two_hosts_that_advertise_loopback("0");
}

#[test]
fn two_hosts_advertising_the_same_loopback_port_remove_nobody() {
    two_hosts_that_advertise_loopback("7000");
}

/// With others that can be asked, a dead server is removed as soon as without.
#[test]
fn a_server_that_is_dead_is_removed_in_time() {
    const HOSTS: [&str; 6] = ["a", "b", "c", "killed", "frozen", "vanished"];
    let Some(network) = Network::start(&HOSTS) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    // Not by the end of its lease.
    let flags = ["--ttl", "60", "--probe-period", "2", "--probe-timeout", "1"];
    let (mesh, servers) = start(&network, &etcd, &HOSTS, &flags);
    let (leader, [killed, frozen, vanished]) = (&servers[0], &servers[3..]) else {
        unreachable!()
    };
    let removed = |server: &Server, why: &str, since: Instant, bound: Duration| {
        let words = format!("Deleted server {} because {why}", server.uuid);
        leader.wait_for_line(|line| line.contains(&words), SOON);
        let took = since.elapsed();
        println!("{why}: {took:.1?}");
        assert!(took < bound + LENIENCE, "{why}: {took:.1?}");
        assert!(
            !mesh
                .state()
                .keys()
                .any(|key| key.starts_with("/pipelines/") && key.ends_with(&server.uuid))
        );
    };
    killed.kill();
    removed(
        killed,
        "its process is gone",
        Instant::now(),
        Duration::from_secs(1),
    );
    frozen.freeze();
    removed(
        frozen,
        "it does not answer",
        Instant::now(),
        PERIOD + SERIES,
    );
    network.cut_off(network.host("vanished"));
    removed(
        vanished,
        "it does not answer",
        Instant::now(),
        PERIOD + SERIES,
    );
    assert!(leader.lines_with("resigning").is_empty());
    were_never_removed(&mesh, &servers[..3]);
    frozen.thaw();
    network.heal();
    mesh.await_published_within(&[&frozen.uuid, &vanished.uuid], SOON * 2);
}
