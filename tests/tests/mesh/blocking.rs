//! Blocking functions that occupy all threads of the pool.

use crate::common::{Mesh, QUICK, SOON};
use futures::{executor::block_on, future::join_all};
use palm_peer::Client;
use palm_tests::{Etcd, Process, ProcessBuilder, eventually, example};
use std::{fs, thread, time::Duration};

/// More than the pool has threads, which are 500.
const FUNCTIONS: usize = 600;
/// How long each of them blocks, in seconds.
const HELD: &str = "15";

/// A server that others find by the name of its host.
fn named(program: &str, etcd: &Etcd) -> ProcessBuilder {
    let run = [
        "run",
        "--etcd",
        &etcd.endpoint(),
        "--ip",
        "localhost",
        "--bind",
        "127.0.0.1",
    ];
    Process::builder(example(program)).args(run).args(QUICK)
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

#[test]
fn a_full_blocking_pool_stops_neither_calls_nor_leading() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let leader = mesh.start_program(named("sleepy", &etcd));
    mesh.await_published(&[&leader.uuid]);
    let client = block_on(Client::connect(mesh.options())).expect("connects");
    eventually("the client sees it", SOON, || {
        (!client.reachable().is_empty()).then_some(())
    });
    let held = client.clone();
    let blocked = thread::spawn(move || {
        let calls = (0..FUNCTIONS).map(|_| {
            held.call("sleepy.hold", HELD)
                .timeout(SOON * 4)
                .into_future()
        });
        block_on(join_all(calls))
    });
    eventually("all threads of the pool are taken", SOON, || {
        (threads(leader.pid()) >= 500).then_some(())
    });

    // The leader finds the new server by name, and so does the function that calls it.
    let printf = mesh.start_program(named("printf", &etcd));
    assert!(printf.endpoint.contains("localhost"), "{}", printf.endpoint);
    mesh.await_published(&[&printf.uuid]);
    let answer = block_on(
        client
            .call("sleepy.ask", "hello")
            .timeout(Duration::from_secs(10))
            .into_future(),
    );
    assert!(!blocked.is_finished(), "the functions block all the while");
    assert_eq!(answer.expect("answered"), "hello");
    let results = blocked.join().expect("no panic");
    assert!(
        results.iter().all(Result::is_ok),
        "{:?}",
        results.iter().find(|result| result.is_err())
    );
}
