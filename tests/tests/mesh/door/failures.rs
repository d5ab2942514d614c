//! No connection fails unseen: each way to fail has its counter, and a fault of the server's own its warning.

use super::Server;
use palm_tests::{
    eventually,
    wire::{Wire, greeting},
};
use std::{fs, time::Duration};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn connections_that_end_before_their_handshake_are_counted_and_not_logged() {
    let server = Server::start(&[]);
    for _ in 0..10 {
        drop(Wire::connect(server.address).expect("a connection"));
        let mut torn = Wire::connect(server.address).expect("a connection");
        torn.send(&greeting()[..40]).expect("half a greeting is taken");
    }
    eventually("all are counted", SOON, || (server.refused("closed_early") >= 20).then_some(()));
    let lines = server.process.lines();
    assert!(!lines.iter().any(|line| line.contains("closed_early")), "{lines:?}");
}

#[test]
fn a_server_that_cannot_reach_its_inner_socket_says_so_and_counts_it() {
    let runtime = tempfile::tempdir().expect("a folder");
    let path = runtime.path().display().to_string();
    let server = Server::start(&[("XDG_RUNTIME_DIR", path.as_str())]);
    let mut held = Wire::dealer(server.address).expect("a connection from before");
    let inside = fs::read_dir(runtime.path()).expect("the folder").next();
    // An inner socket without a path cannot be taken away.
    let Some(inside) = inside else {
        eprintln!("SKIPPED: no test of an inner socket that is taken away: here it has no path");
        return;
    };
    fs::remove_dir_all(inside.expect("its entry").path()).expect("removed");
    for _ in 0..3 {
        // The handshake with the server succeeds; what lies behind it fails.
        let mut wire = Wire::dealer(server.address).expect("a handshake");
        wire.until_end().expect("the server ends the connection");
    }
    server.process.wait_for_line(
        |line| {
            line.contains("WARNING") && line.contains("the inner socket cannot be reached") && line.contains("restart")
        },
        SOON,
    );
    let lines = server.process.lines();
    assert_eq!(lines.iter().filter(|line| line.contains("(internal)")).count(), 1, "{lines:?}");
    held.message(&[br#"{"palm":1,"pipeline":["text._ping"]}"#]).expect("sent");
    let ping = String::from_utf8(held.answer().expect("an answer").remove(1)).expect("JSON");
    assert_eq!(super::number(&ping, "internal"), 3, "{ping}");
}
