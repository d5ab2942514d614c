//! A server remembers no more clients than it has room for, whatever they greet as.

use super::Server;
use palm_tests::wire::{Wire, frame};
use std::{net::SocketAddr, thread};
use uuid::Uuid;

const CONNECTIONS: usize = 4;
/// As many as are sent before their answers are read.
const BATCH: usize = 100;
/// In kB: what the allocator keeps and frees besides.
const A_FEW_MB: u64 = 8 * 1024;

/// Greets over each connection with this many new uuids.
fn greet(wires: &mut [Wire], each: usize) {
    thread::scope(|scope| {
        for wire in wires {
            scope.spawn(move || {
                for _ in 0..each / BATCH {
                    let hello = |_| {
                        let header = format!(r#"{{"palm":1,"hello":"{}"}}"#, Uuid::new_v4());
                        [frame(1, header.as_bytes()), frame(0, b"")].concat()
                    };
                    wire.send(&(0..BATCH).flat_map(hello).collect::<Vec<u8>>())
                        .expect("sent");
                    for _ in 0..BATCH {
                        wire.answer().expect("each is answered");
                    }
                }
            });
        }
    });
}

fn connect(address: SocketAddr) -> Vec<Wire> {
    (0..CONNECTIONS)
        .map(|_| Wire::dealer(address).expect("a connection"))
        .collect()
}

#[test]
fn greetings_over_few_connections_take_no_memory() {
    crate::heavy();
    let server = Server::start(&[]);
    let mut wires = connect(server.address);
    greet(&mut wires, 5_000);
    let before = server.memory();
    greet(&mut wires, 50_000);
    let after = server.memory();
    println!("{before} kB before, {after} kB after 200,000 greetings");
    assert!(
        after < before + A_FEW_MB,
        "{before} kB before, {after} kB after"
    );
    server.good_call();
}
