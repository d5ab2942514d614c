//! Many servers that join at the same moment.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::in_process;

use futures::{StreamExt as _, channel::oneshot, executor::block_on, stream::FuturesUnordered};
use palm_peer::{Peer, Server};
use palm_tests::{Etcd, eventually};
use std::{sync::Arc, thread, time::Instant};

const SERVERS: usize = 200;

#[test]
fn two_hundred_servers_can_join_at_once() {
    let _quiet = crate::alone();
    let etcd = Etcd::start();
    let start = Instant::now();
    let joining: FuturesUnordered<_> = (0..SERVERS)
        .map(|_| {
            Server::new("echo_server")
                .function("echo", in_process::echo)
                .join(in_process::settings(&etcd))
        })
        .collect();
    let peers: Vec<Arc<Peer>> = block_on(
        joining
            .map(|joined| Arc::new(joined.expect("it joins")))
            .collect(),
    );
    println!("{SERVERS} servers joined within {:?}", start.elapsed());
    let (stop, stopped) = oneshot::channel::<()>();
    let served = peers.clone();
    let serving = thread::spawn(move || {
        use futures::FutureExt as _;
        let stopped = stopped.map(drop).shared();
        let all: FuturesUnordered<_> = served
            .iter()
            .map(|peer| peer.serve(stopped.clone()))
            .collect();
        block_on(all.collect::<Vec<_>>())
    });
    let client = in_process::client(in_process::settings(&etcd), "echo_server", SERVERS);
    println!(
        "{SERVERS} servers can be reached within {:?}",
        start.elapsed()
    );
    // The client may have heard of it before the last server has.
    let configured = || {
        peers
            .iter()
            .all(|peer| peer.state().configured)
            .then_some(())
    };
    eventually(
        "all know that they are configured",
        in_process::SOON,
        configured,
    );
    assert_eq!(peers.iter().filter(|peer| peer.state().leading).count(), 1);
    assert_eq!(
        in_process::call(&client, "echo_server.echo", "hello").expect("somebody answers"),
        "hello"
    );
    let leaving = Instant::now();
    drop(stop);
    assert!(
        serving
            .join()
            .expect("no panic")
            .into_iter()
            .all(|served| served.is_ok())
    );
    println!("{SERVERS} servers left within {:?}", leaving.elapsed());
    assert_eq!(
        etcd.etcdctl(&["get", "--prefix", "--keys-only", "/servers/"])
            .trim(),
        ""
    );
}
