//! A client whose connection is swallowed, while new ones work.

use crate::common::{Mesh, SOON, Server};
use futures::executor::block_on;
use palm_peer::{CallErrorKind, Client};
use palm_tests::{Etcd, Host, Network, example};
use std::time::{Duration, Instant};

/// What design and a busy machine allow: 5 s, and some.
const BOUND: Duration = Duration::from_secs(8);

fn start(mesh: &Mesh<'_>, etcd: &Etcd, host: &Host, program: &str) -> Server {
    start_with(mesh, etcd, host, program, &[])
}

/// A server on this host, with these arguments besides.
pub(super) fn start_with(
    mesh: &Mesh<'_>,
    etcd: &Etcd,
    host: &Host,
    program: &str,
    more: &[&str],
) -> Server {
    let (address, etcd) = (host.address().to_string(), etcd.endpoint());
    let run = [&["run", "--debug", "--etcd", &etcd, "--ip", &address], more].concat();
    let server = mesh.start_program(host.builder(example(program)).args(run));
    mesh.await_published(&[&server.uuid]);
    server
}

#[test]
fn a_client_replaces_a_black_holed_connection() {
    let Some(network) = Network::start(&["b"]) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let server = start(&mesh, &etcd, network.host("b"), "printf");
    let client = block_on(Client::connect(mesh.options())).expect("connects");
    let call = || {
        block_on(
            client
                .call("printf.printf", "hello")
                .timeout(SOON)
                .into_future(),
        )
    };
    call().expect("the server answers");

    network.black_hole(network.here().flow_to(&server.endpoint));
    let start = Instant::now();
    let error = call().expect_err("the connection swallows it");
    let took = start.elapsed();
    eprintln!("found out after {took:?}: {error}");
    assert!(took < BOUND, "it took {took:?}: {error}");
    assert_eq!(error.kind(), CallErrorKind::Unreachable, "{error}");
    call().expect("over a new connection");
}
