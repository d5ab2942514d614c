//! Clients that hang up while they are being answered.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod inside;

use std::thread;

use inside::{SOON, Stranger, call, client, settings};
use palm_tests::{Etcd, Process, example};

/// The ZeroMQ crate keeps its connections in a map whose locks are handed from one waiter to the next. A send that was left
/// waiting for one, on the thread that receives, stopped that thread for ever when a connection ended at that moment.
#[test]
fn a_server_survives_clients_that_hang_up_while_they_are_answered() {
    let etcd = Etcd::start();
    // A process of its own: a server that stands still cannot be told to leave.
    let server = Process::start(example("sleepy"), ["run", "--etcd", &etcd.endpoint()]);
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
                    stranger.hear();
                }
            });
        }
    });
    assert_eq!(call(&client, "sleepy.block", "0").expect("an answer"), "awake");
}
