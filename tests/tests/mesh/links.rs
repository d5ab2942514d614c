//! Native links between the library's peers, and plain ones to and from all others, in one mesh.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::{
    common::{Mesh, QUICK, SOON, Server},
    in_process::{call, client},
};
use palm_peer::Client;
use palm_tests::{Etcd, Process, ResourceUsage, binary, eventually, example, wire::Wire};
use std::net::SocketAddr;

/// The variable that makes a process offer no native links.
const PLAIN: (&str, &str) = ("PALM_TEST_LINKS", "plain");

const MESSAGES: usize = 300;

/// A server of this name, which offers native links or not.
fn stage(mesh: &Mesh<'_>, etcd: &Etcd, name: &str, native: bool) -> Server {
    let program = Process::builder(example("stage"))
        .arg("run")
        .args(QUICK)
        .env("PALM_ETCD", etcd.endpoint())
        .env("PALM_TEST_STAGE", name)
        .env(PLAIN.0, if native { "native" } else { PLAIN.1 });
    mesh.start_program(program)
}

/// A job goes through all three servers, and calls reach each of them.
fn everything_works(client: &Client) {
    for name in ["a", "b", "c"] {
        let answer = call(client, &format!("{name}.add"), "x").expect("an answer");
        assert_eq!(answer, format!("x{name}"));
    }
    let input = (0..MESSAGES).map(|number| format!("{number} "));
    let results = client.job(["a.add", "b.add", "c.add"]).run_iter(input);
    let mut results: Vec<_> = futures::executor::block_on_stream(results.expect("there"))
        .map(|(_, result)| result.expect("a result"))
        .collect();
    results.sort();
    let mut expected: Vec<_> = (0..MESSAGES)
        .map(|number| format!("{number} abc"))
        .collect();
    expected.sort();
    assert_eq!(results, expected);
}

#[test]
fn native_and_plain_peers_work_together_in_both_directions() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "", &[]);
    // Native to plain, and plain to native; the leader, the first, probes both kinds.
    let servers = [("a", true), ("b", false), ("c", true)]
        .map(|(name, native)| stage(&mesh, &etcd, name, native));
    let uuids = servers.each_ref().map(|server| server.uuid.as_str());
    mesh.await_published(&uuids);
    everything_works(&client(mesh.options(), "c", 1));

    let endpoint = etcd.endpoint();
    let plain = |args: &[&str]| {
        let cli = Process::builder(binary("palm-cli"))
            .args(args)
            .args(["--etcd", &endpoint])
            .env(PLAIN.0, PLAIN.1)
            .start();
        assert!(cli.wait(SOON).success(), "{:#?}", cli.lines());
        cli.lines().join("\n")
    };
    for name in ["a", "b", "c"] {
        let said = plain(&["call", &format!("{name}.add"), "x"]);
        assert!(said.contains(&format!("x{name}")), "{said}");
    }
    drop(servers);

    // The other way round: the leader is plain.
    let mesh = Mesh::new(&etcd, "/other", &[]);
    let servers = [("a", false), ("b", true), ("c", false)]
        .map(|(name, native)| stage(&mesh, &etcd, name, native));
    let uuids = servers.each_ref().map(|server| server.uuid.as_str());
    mesh.await_published(&uuids);
    everything_works(&client(mesh.options(), "c", 1));
}

#[test]
fn a_native_link_costs_the_server_one_descriptor() {
    const LINKS: usize = 20;
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "", &[]);
    for (native, each) in [(true, 1), (false, 3)] {
        let server = mesh.start("printf");
        mesh.await_published(&[&server.uuid]);
        let address = server.endpoint.trim_start_matches("tcp://");
        let address: SocketAddr = address.parse().expect("an address");
        let files = || ResourceUsage::of(server.pid()).files;
        // The kinds of links that the leader and the mesh have do not matter here.
        let before = files();
        let links: Vec<_> = (0..LINKS)
            .map(|_| {
                let mut wire = if native {
                    Wire::native(address).expect("a link")
                } else {
                    let mut wire = Wire::connect(address).expect("a connection");
                    wire.send(&palm_tests::wire::greeting()).expect("sent");
                    let ready = palm_tests::wire::ready(&[("Socket-Type", b"DEALER")]);
                    wire.send(&ready).expect("sent");
                    wire
                };
                let header = br#"{"palm":1,"pipeline":["printf.printf"]}"#;
                wire.message(&[header, b"x"]).expect("sent");
                wire
            })
            .collect();
        eventually("the links have their descriptors", SOON, || {
            let opened = files().saturating_sub(before);
            (opened.abs_diff(LINKS * each) <= LINKS / 2).then_some(())
        });
        drop(links);
    }
}
