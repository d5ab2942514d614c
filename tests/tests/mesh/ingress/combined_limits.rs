//! Limits on the memory that all clients combined can occupy.

use super::Server;
use palm_tests::wire::Wire;
use std::{net::TcpStream, time::Duration};

const MEGABYTE: usize = 1024 * 1024;
const PAYLOAD: usize = 4 * MEGABYTE;
const CLIENTS: usize = 100;

/// Far less than the clients send, and more than a server needs besides.
const MAX_HELD: u64 = 100 * 1024;

fn server() -> Server {
    let [payload, held] = [PAYLOAD, 4 * PAYLOAD].map(|bytes| bytes.to_string());
    Server::named(
        "plenty",
        &[("PALM_MAX_PAYLOAD", &payload), ("PALM_MAX_HELD", &held)],
    )
}

/// A request with a payload as long as it may be; the server looks at its length alone.
fn long() -> Vec<u8> {
    let header: &[u8] = br#"{"palm":1,"pipeline":["plenty.length"]}"#;
    [
        palm_tests::wire::frame(1, header),
        palm_tests::wire::frame(0, &vec![b'x'; PAYLOAD]),
    ]
    .concat()
}

/// A connection that has sent all of it that the server takes, but for the last bytes.
fn unfinished(server: &Server, request: &[u8]) -> Wire {
    let mut wire = Wire::dealer(server.address).expect("a connection");
    wire.stream()
        .set_write_timeout(Some(Duration::from_millis(100)))
        .expect("a socket");
    // What the server does not take now, it does not take before it is its turn.
    let _ = wire.send(&request[..request.len() - 10]);
    wire
}

/// A message of this connection is answered, however long it must wait for its turn.
fn is_answered(server: &Server, request: &[u8], clients: Vec<Wire>) {
    let mut wire = Wire::dealer(server.address).expect("a connection");
    for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        set(wire.stream(), Some(Duration::from_secs(60))).expect("a socket");
    }
    wire.send(request).expect("sent");
    assert_eq!(
        wire.answer().expect("an answer")[1],
        PAYLOAD.to_string().as_bytes()
    );
    drop(clients);
}

#[test]
fn unfinished_messages_of_all_clients_are_bounded() {
    crate::heavy();
    let server = server();
    let request = long();
    let before = server.memory();
    let clients: Vec<Wire> = (0..CLIENTS)
        .map(|_| unfinished(&server, &request))
        .collect();
    server.good_call();
    let held = server.memory().saturating_sub(before);
    assert!(
        held < MAX_HELD,
        "{held} kB are held of messages that are not finished"
    );

    drop(clients);
    is_answered(&server, &request, Vec::new());
    server.calm_down();
}

#[test]
fn a_permit_holder_that_stalls_loses_its_permit() {
    let server = server();
    let request = long();
    let clients: Vec<Wire> = (0..4).map(|_| unfinished(&server, &request)).collect();
    // No connection waits, so no rate is required.
    assert_eq!(server.refused("stalled"), 0);
    is_answered(&server, &request, clients);
    assert!(server.refused("stalled") > 0);
}

#[test]
fn unread_answers_of_all_clients_are_bounded() {
    crate::heavy();
    let server = server();
    let before = server.memory();
    let get: &[&[u8]] = &[br#"{"palm":1,"pipeline":["plenty.bytes"]}"#, b"4194304"];
    let mut clients = Vec::new();
    let mut most = 0;
    for _ in 0..CLIENTS {
        let mut wire = Wire::dealer(server.address).expect("a connection");
        for _ in 0..5 {
            // It may be cut off already.
            let _ = wire.message(get);
        }
        clients.push(wire);
        most = most.max(server.memory());
    }
    server.good_call();
    let held = most.saturating_sub(before);
    assert!(
        held < MAX_HELD,
        "{held} kB are held of answers that nobody takes"
    );
    assert!(server.refused("unread") > 0);

    let mut proper = Wire::dealer(server.address).expect("a connection");
    for _ in 0..5 {
        proper.message(get).expect("sent");
        assert_eq!(
            proper.answer().expect("an answer")[1].len(),
            PAYLOAD,
            "a client that reads is not disconnected"
        );
    }
    drop((proper, clients));
    server.calm_down();
}
