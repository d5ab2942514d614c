//! Remote peers cannot fill a log: whatever their number and addresses, each kind of input costs a
//! few lines, and suppressed lines are counted.

use super::Server;
use palm_tests::{
    eventually,
    wire::{Wire, frame, greeting, ready_as},
};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    thread,
    time::Duration,
};

/// How many strangers of each kind come.
const STRANGERS: u32 = 2000;

/// How many lines a kind of input may cost: 8 addresses in a minute, and in the next.
const MAX_LINES: usize = 16;

const SOON: Duration = Duration::from_secs(60);

/// A connection from an address of its own: all of 127.0.0.0/8 is this host.
fn stranger(number: u32, to: SocketAddr) -> io::Result<TcpStream> {
    let SocketAddr::V4(to) = to else {
        panic!("an IPv4 address")
    };
    let own = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + number);
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(own, 0))?;
    connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

/// What one stranger says, and how its end is called in `_ping`.
type Kind<'a> = (&'a str, Box<dyn Fn(TcpStream) + Sync + 'a>);

/// Says these bytes, and waits until the server ends it.
fn says<'a>(bytes: Vec<u8>) -> Box<dyn Fn(TcpStream) + Sync + 'a> {
    Box::new(move |stream| {
        let mut wire = Wire::over(stream);
        // The server may have ended it by then.
        let _ = wire.send(&bytes);
        let _ = wire.until_end();
    })
}

/// Has all strangers of each kind come, and looks at what that costs in the log.
fn come(server: &Server, kinds: &[Kind<'_>]) {
    for (nth, (kind, act)) in (0_u32..).zip(kinds) {
        let (counted, lines) = (server.refused(kind), server.process.lines().len());
        thread::scope(|scope| {
            for part in 0..4 {
                scope.spawn(move || {
                    for number in (part..STRANGERS).step_by(4) {
                        act(stranger(nth * STRANGERS + number, server.address)
                            .expect("a connection"));
                    }
                });
            }
        });
        let wanted = counted + u64::from(STRANGERS);
        eventually(&format!("all are counted as {kind}"), SOON, || {
            (server.refused(kind) >= wanted).then_some(())
        });
        let said = server.process.lines().split_off(lines);
        // The leader's rounds have lines of their own.
        let said: Vec<_> = said
            .iter()
            .filter(|line| !line.contains(":registry:") && !line.contains(":pipeliner:"))
            .collect();
        assert!(
            said.len() <= MAX_LINES,
            "{} lines for {kind}: {said:#?}",
            said.len()
        );
        assert!(
            !said.iter().any(|line| line.contains("rustls")),
            "{said:#?}"
        );
    }
}

#[test]
fn thousands_of_bad_clients_cost_a_plain_server_few_lines() {
    crate::heavy();
    let server = Server::start(&[]);
    let hello = [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3].to_vec();
    let handshake = [&greeting()[..], &ready_as("DEALER")].concat();
    let mut old = greeting();
    old[10] = 2;
    let kinds: [Kind<'_>; 6] = [
        (
            "not_zmtp",
            says(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ),
        ("tls", says(hello)),
        ("version", says(old.to_vec())),
        ("flags", says([&handshake[..], &[0xff; 9]].concat())),
        (
            "ready",
            says([&greeting()[..], &frame(4, b"\x05HELLO")].concat()),
        ),
        (
            "closed_early",
            Box::new(|stream| Wire::over(stream).close()),
        ),
    ];
    come(&server, &kinds);

    // Admitted connections that send an invalid request are answered; nothing is logged.
    let lines = server.process.lines().len();
    for number in 0..STRANGERS / 4 {
        let mut wire = Wire::over(stranger(number, server.address).expect("a connection"));
        wire.shake_hands().expect("let in");
        for header in [
            &b"{"[..],
            br#"{"palm":1,"pipeline":["text.nothing"]}"#,
            br#"{"palm":1,"pipeline":["x.y"]}"#,
        ] {
            wire.message(&[header, b"x"]).expect("sent");
            wire.answer().expect("an error");
        }
    }
    let said = server.process.lines().split_off(lines);
    assert!(
        said.iter()
            .all(|line| line.contains(":registry:") || line.contains(":pipeliner:")),
        "{said:#?}"
    );
    server.good_call();
}
