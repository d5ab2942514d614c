//! Clients that disconnect while they are being answered.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::thread;

use crate::in_process::{InProcess, SOON, Stranger, call, client, echo, settings};
use palm_peer::Server;
use palm_tests::{Etcd, Process, example};
use serde_json::Value;

/// The ZeroMQ crate keeps its connections in a map whose locks are handed from one waiter to the
/// next. A send that was left waiting for one, on the thread that receives, stopped that thread for
/// ever when a connection ended at that moment.
#[test]
fn a_server_survives_clients_that_disconnect_mid_answer() {
    crate::heavy();
    // The loop that receives runs on one of these threads, or on the only one.
    ["1", "2", "4"].into_iter().for_each(survives_disconnects);
}

fn survives_disconnects(threads: &str) {
    let etcd = Etcd::start();
    // A process of its own: a stopped server does not handle signals.
    let server = Process::builder(example("sleepy")).args(["run", "--etcd", &etcd.endpoint()]);
    let server = server.env("ASYNC_STD_THREAD_COUNT", threads).start();
    server.wait_for_line(|line| line.ends_with(" configured"), SOON);
    let client = client(settings(&etcd), "sleepy", 1);
    let record = etcd.etcdctl(&["get", "--prefix", "--print-value-only", "/servers/"]);
    let record: serde_json::Value = serde_json::from_str(&record).expect("one record");
    let endpoint = format!("tcp://127.0.0.1:{}", record["ports"][0]);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let mut stranger = Stranger::at(&endpoint);
                    for _ in 0..40 {
                        stranger.say([r#"{"palm":1,"pipeline":["sleepy.block"]}"#, "0"]);
                    }
                    stranger.recv();
                }
            });
        }
    });
    assert_eq!(
        call(&client, "sleepy.block", "0").expect("an answer"),
        "awake"
    );
}

/// A client may open its connection in the very moment in which a server is done: what it sends is
/// refused, not lost.
#[test]
fn a_client_that_connects_after_the_goodbye_gets_it_too() {
    let etcd = Etcd::start();
    let mut server = InProcess::start(Server::new("zoo").function("echo", echo), settings(&etcd));
    let endpoint = server.peer.endpoint().to_owned();
    let hello = |n: u8| {
        format!(r#"{{"palm":1,"hello":"00000000-0000-4000-8000-00000000000{n}","bye":true}}"#)
    };
    let mut first = Stranger::at(&endpoint);
    assert_eq!(first.ask([hello(1)]).0["bye"], Value::Null);
    server.leave();
    assert_eq!(first.answer().0["bye"], true);
    // The first has not answered the goodbye, so the server waits, and accepts new connections.
    let mut second = Stranger::at(&endpoint);
    assert_eq!(second.ask([hello(2)]).0["bye"], Value::Null);
    assert_eq!(second.answer().0["bye"], true);
    let refused = second
        .ask([r#"{"palm":1,"pipeline":["zoo.echo"]}"#, "late"])
        .0;
    assert_eq!(refused["error"]["kind"], "leaving");
    for (n, stranger) in (1..).zip([&mut first, &mut second]) {
        stranger.say([format!(
            r#"{{"palm":1,"bye":"00000000-0000-4000-8000-00000000000{n}"}}"#
        )]);
    }
    server.ended().unwrap();
}
