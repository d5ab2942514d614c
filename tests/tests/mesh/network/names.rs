//! Servers that are found by the name of their host: one with several addresses, and one that
//! cannot be resolved.

use super::client::start_with;
use crate::common::{Mesh, QUICK, SOON, Server};
use palm_tests::{Etcd, Host, Network, Process, binary, example};
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// For what takes some 300 ms: the start of a program, a call, and the delay before
/// the second address.
const BOUND: Duration = Duration::from_millis(2500);
/// For what takes the 2 s that a link may take to open.
const SILENT_BOUND: Duration = Duration::from_secs(6);

/// A server on this host that others find by the host's name.
fn start_named(mesh: &Mesh<'_>, etcd: &Etcd, host: &Host, program: &str, name: &str) -> Server {
    let (address, etcd) = (host.address().to_string(), etcd.endpoint());
    let run = [
        &[
            "run", "--debug", "--etcd", &etcd, "--ip", name, "--bind", &address,
        ],
        &QUICK[..],
    ]
    .concat();
    mesh.start_program(host.builder(example(program)).args(run))
}

/// Calls a function from this host. Returns whether it was answered, what was printed, and
/// how long it took.
fn call(host: &Host, etcd: &Etcd, target: &str) -> (bool, String, Duration) {
    let start = Instant::now();
    let args = [
        "--etcd",
        &etcd.endpoint(),
        "--prefix",
        "/mesh",
        "call",
        "--timeout",
        "4",
        target,
        "hello",
    ];
    let cli = host.builder(binary("palm-cli")).args(args).start();
    let success = cli.wait(SOON).success();
    (success, cli.lines().join("\n"), start.elapsed())
}

/// Calls a function that must answer within [`BOUND`]. The machine has other things to do,
/// so one of a few calls may show it; what waits for silence to end does so in each. Returns
/// how long it took.
#[track_caller]
fn call_in_time(host: &Host, etcd: &Etcd, target: &str) -> Duration {
    let mut slow = Vec::new();
    for _ in 0..3 {
        let (success, lines, took) = call(host, etcd, target);
        assert!(success, "after {took:?}: {lines}");
        if took < BOUND {
            return took;
        }
        slow.push(took);
    }
    panic!("each of three calls took long: {slow:?}");
}

#[test]
fn all_addresses_of_a_name_are_tried() {
    let Some(network) = Network::start(&["a", "b", "c"]) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let [a, b, c] = ["a", "b", "c"].map(|host| network.host(host));
    b.know(&[("b.test", b.address())]);
    let server = start_named(&mesh, &etcd, b, "printf", "b.test");
    assert!(server.endpoint.contains("b.test"), "{}", server.endpoint);
    mesh.await_published(&[&server.uuid]);

    let target = "printf.printf";
    let addresses: [(&str, &[Ipv4Addr]); 5] = [
        ("one", &[b.address()]),
        ("a black hole first", &[network.spare(), b.address()]),
        ("a black hole last", &[b.address(), network.spare()]),
        // Nothing listens on that host.
        ("refused first", &[a.address(), b.address()]),
        ("refused last", &[b.address(), a.address()]),
    ];
    for (what, addresses) in addresses {
        c.know(
            &addresses
                .iter()
                .map(|address| ("b.test", *address))
                .collect::<Vec<_>>(),
        );
        eprintln!("{what}");
        let took = call_in_time(c, &etcd, target);
        eprintln!("{what}: {took:?}");
    }

    // The other machine runs something else at that port.
    let port = server.endpoint.rsplit_once(':').expect("a port").1;
    let run = [
        "run",
        "--etcd",
        &etcd.endpoint(),
        "--ip",
        &a.address().to_string(),
        "--port",
        port,
    ];
    let other = mesh.start_program(a.builder(example("text")).args(run));
    mesh.await_published(&[&other.uuid]);
    for addresses in [[a.address(), b.address()], [b.address(), a.address()]] {
        c.know(&addresses.map(|address| ("b.test", address)));
        eprintln!("another server is there");
        call_in_time(c, &etcd, target);
    }

    // All addresses fail: each is named.
    c.know(&[("b.test", a.address()), ("b.test", network.spare())]);
    other.terminate();
    assert!(other.wait(SOON).success());
    let (success, lines, took) = call(c, &etcd, target);
    assert!(!success && took < SILENT_BOUND, "after {took:?}: {lines}");
    for address in [a.address(), network.spare()] {
        assert!(lines.contains(&format!("{address}:{port}: ")), "{lines}");
    }
}

#[test]
fn a_hanging_name_stops_neither_the_leader_nor_calls() {
    let Some(network) = Network::start(&["a", "b", "c"]) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let [a, b, c] = ["a", "b", "c"].map(|host| network.host(host));
    a.ask_nameserver(network.spare());
    let hung: Vec<_> = (0..12).map(|i| format!("hung{i}.test")).collect();
    b.know(
        &hung
            .iter()
            .map(|name| (name.as_str(), b.address()))
            .collect::<Vec<_>>(),
    );
    c.know(
        &hung
            .iter()
            .map(|name| (name.as_str(), b.address()))
            .collect::<Vec<_>>(),
    );

    // A leader that can resolve no name, and more names than it has threads for them.
    let leader = start_with(&mesh, &etcd, a, "printf", &QUICK);
    let named: Vec<_> = hung
        .iter()
        .map(|name| start_named(&mesh, &etcd, b, "text", name))
        .collect();
    let numeric = start_with(&mesh, &etcd, b, "printf", &QUICK);
    // Of which of them it says so, and which it has only heard nothing of in time, is chance.
    leader.wait_for_line(
        |line| line.contains("host name hung") && line.contains(".test cannot be resolved"),
        SOON,
    );
    let late = start_with(&mesh, &etcd, c, "printf", &QUICK);
    for uuid in [&leader.uuid, &numeric.uuid, &late.uuid] {
        assert!(mesh.is_registered(uuid), "{uuid} stays");
    }

    // Others reach what it does not: it resigns. Another leader knows the names: they are
    // published, and a client on the first host meets them.
    leader.wait_for_line(|line| line.contains("resigning as leader"), SOON);
    mesh.await_published_within(&[&named[0].uuid, &numeric.uuid], SOON * 2);
    let pinned = format!("{}.shout", named[0].uuid);
    let (success, lines, took) = call(a, &etcd, &pinned);
    eprintln!("a name that hangs: {took:?}");
    assert!(!success && took < SILENT_BOUND, "after {took:?}: {lines}");
    assert!(
        lines.contains("host name hung0.test cannot be resolved: no answer within 2s"),
        "{lines}"
    );
    call_in_time(a, &etcd, "printf.printf");
}

/// Not of this file's faults, but of its tool: without it, the tests above would mean nothing.
#[test]
fn a_host_has_several_addresses_and_a_mute_nameserver() {
    let Some(network) = Network::start(&["a"]) else {
        return;
    };
    let a = network.host("a");
    a.know(&[("both.test", network.spare()), ("both.test", a.address())]);
    a.ask_nameserver(network.spare());
    let look_up = |name: &str| -> Process {
        a.builder("timeout")
            .args(["3", "getent", "ahosts", name])
            .start()
    };
    let known = look_up("both.test");
    assert!(known.wait(SOON).success());
    for address in [network.spare(), a.address()] {
        assert!(
            known
                .lines()
                .iter()
                .any(|line| line.starts_with(&address.to_string())),
            "{:?}",
            known.lines()
        );
    }
    assert_eq!(
        look_up("other.test").wait(SOON).code(),
        Some(124),
        "it hangs"
    );
}
