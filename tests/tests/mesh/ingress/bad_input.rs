//! Invalid input of all kinds to one server.

use super::Server;
use palm_tests::{
    eventually,
    wire::{Wire, frame, greeting, ready, ready_as},
};
use std::time::Duration;

/// The counter that a bad input must raise; none where it is the application's to
/// answer, or nobody's.
type Counter = Option<&'static str>;

fn announced(flags: u8, length: u64) -> Vec<u8> {
    [&[flags][..], &length.to_be_bytes()].concat()
}

/// What is said instead of a greeting.
fn instead_of_a_greeting() -> Vec<(&'static str, Vec<u8>, Counter)> {
    let changed = |at: usize, bytes: &[u8]| {
        let mut greeting = greeting().to_vec();
        greeting[at..at + bytes.len()].copy_from_slice(bytes);
        greeting
    };
    let random: Vec<u8> = (1..1024_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect();
    vec![
        (
            "HTTP",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            Some("not_zmtp"),
        ),
        (
            "a TLS hello",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            Some("tls"),
        ),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), Some("not_zmtp")),
        ("ZMTP 1.0", b"\x01\x00".to_vec(), Some("not_zmtp")),
        ("random bytes", random, Some("not_zmtp")),
        ("zeros", vec![0; 64], Some("not_zmtp")),
        ("a torn signature", changed(9, &[0]), Some("not_zmtp")),
        ("ZMTP 2.0", changed(10, &[1]), Some("version")),
        ("PLAIN", changed(12, b"PLAIN"), Some("mechanism")),
        ("CURVE", changed(12, b"CURVE"), Some("mechanism")),
        ("NULLX", changed(12, b"NULLX"), Some("mechanism")),
        ("bytes behind NULL", changed(31, b"x"), Some("mechanism")),
    ]
}

/// What is said instead of a READY.
fn instead_of_a_ready() -> Vec<(&'static str, Vec<u8>, Counter)> {
    let dealer = ("Socket-Type", b"DEALER".as_slice());
    vec![
        ("a frame before READY", frame(0, b"hello"), Some("ready")),
        ("another command", frame(4, b"\x05HELLO"), Some("ready")),
        ("an ERROR", frame(4, b"\x05ERROR\x00"), Some("ready")),
        ("an empty command", frame(4, b""), Some("ready")),
        (
            "a READY of 8 EB announced",
            announced(6, 1 << 63),
            Some("ready"),
        ),
        (
            "a READY of 4 GB announced",
            announced(6, 4 << 30),
            Some("ready"),
        ),
        ("a READY without a type", ready(&[]), Some("ready")),
        ("a type twice", ready(&[dealer, dealer]), Some("ready")),
        (
            "a torn property",
            frame(4, b"\x05READY\x0bSocket-Type\x00\x00\xff\xff"),
            Some("ready"),
        ),
        (
            "a PUB",
            ready(&[("Socket-Type", b"PUB")]),
            Some("socket_type"),
        ),
        (
            "a ROUTER",
            ready(&[("Socket-Type", b"ROUTER")]),
            Some("socket_type"),
        ),
        (
            "a type of garbage",
            ready(&[("Socket-Type", b"\xff\xfe")]),
            Some("socket_type"),
        ),
        (
            "an identity of 256 bytes",
            ready(&[dealer, ("Identity", &[7; 256])]),
            Some("identity"),
        ),
    ]
}

/// What is said after the handshake, and cut off.
fn after_the_handshake() -> Vec<(&'static str, Vec<u8>, Counter)> {
    vec![
        (
            "a frame of 40 GB announced",
            announced(2, 40 << 30),
            Some("too_long"),
        ),
        (
            "a frame of 16 EB announced",
            announced(2, u64::MAX),
            Some("too_long"),
        ),
        (
            "a frame just below what memory can address",
            announced(2, (1 << 63) - 1),
            Some("too_long"),
        ),
        (
            "a second frame of 40 GB",
            [frame(1, b"{}"), announced(2, 40 << 30)].concat(),
            Some("too_long"),
        ),
        (
            "a million empty MORE frames",
            [1, 0].repeat(1_000_000),
            Some("too_many_frames"),
        ),
        ("nine frames", [1, 0].repeat(9), Some("too_many_frames")),
        ("READY again", ready_as("DEALER"), Some("command")),
        (
            "a PONG that nobody asked for",
            frame(4, b"\x04PONG"),
            Some("command"),
        ),
        (
            "a PING without its time",
            frame(4, b"\x04PING"),
            Some("command"),
        ),
        (
            "a PING with too much context",
            frame(4, &[b"\x04PING\0\0".as_slice(), &[1; 17]].concat()),
            Some("command"),
        ),
        ("a SUBSCRIBE", frame(4, b"\x09SUBSCRIBEx"), Some("command")),
        (
            "a command of 1 GB announced",
            announced(6, 1 << 30),
            Some("command"),
        ),
        ("unknown flags", vec![0x80, 0], Some("flags")),
        ("a command with more to come", vec![5, 0], Some("flags")),
    ]
}

/// What is said after the handshake, and answered with an error.
fn answered() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let header = br#"{"palm":1,"pipeline":["text.shout"]}"#.to_vec();
    let deep =
        |open: &str| format!(r#"{{"palm":1,"pipeline":{}"#, open.repeat(30_000)).into_bytes();
    vec![
        ("no header at all", vec![b"".to_vec()]),
        (
            "a header that is no JSON",
            vec![b"hello".to_vec(), b"x".to_vec()],
        ),
        (
            "a header of 64 KiB and one byte",
            vec![
                [header.clone(), vec![b' '; 65_537 - header.len()]].concat(),
                vec![],
            ],
        ),
        ("deeply nested lists", vec![deep("["), vec![]]),
        ("deeply nested objects", vec![deep(r#"{"a":"#), vec![]]),
        (
            "invalid UTF-8 in the header",
            vec![
                b"{\"palm\":1,\"pipeline\":[\"\xff\xfe.x\"]}".to_vec(),
                vec![],
            ],
        ),
        (
            "invalid UTF-8 in the payload",
            vec![header.clone(), b"\xff\xfe".to_vec()],
        ),
        (
            "three frames",
            vec![header.clone(), b"a".to_vec(), b"b".to_vec()],
        ),
        (
            "another protocol",
            vec![br#"{"palm":9,"pipeline":["text.shout"]}"#.to_vec()],
        ),
        (
            "a number that no type holds",
            vec![br#"{"palm":1,"pipeline":["a.b"],"idx":1e999}"#.to_vec()],
        ),
        (
            "a pipeline of 10,000 stages",
            vec![
                format!(
                    r#"{{"palm":1,"pipeline":["a.b"{}]}}"#,
                    r#","a.b""#.repeat(9_000)
                )
                .into_bytes(),
            ],
        ),
        (
            "a payload one byte over the limit",
            vec![header, vec![b'x'; MOST + 1]],
        ),
    ]
}

/// The longest payload, in these tests.
const MOST: usize = 1024 * 1024;

fn cut_off(server: &Server, name: &str, opening: &[&[u8]], counter: Counter) {
    let before = counter.map(|kind| server.refused(kind));
    let mut wire = Wire::connect(server.address).expect(name);
    for bytes in opening {
        // The connection may be cut off before all is said.
        let _ = wire.send(bytes);
    }
    wire.until_end()
        .unwrap_or_else(|error| panic!("{name}: the connection stays open: {error}"));
    server.good_call();
    if let Some((kind, before)) = counter.zip(before) {
        eventually(
            &format!("{name} is counted as {kind}"),
            Duration::from_secs(5),
            || (server.refused(kind) > before).then_some(()),
        );
    }
}

#[test]
fn bad_input_neither_stops_a_server_nor_costs_memory() {
    let server = Server::start(&[("PALM_MAX_PAYLOAD", &MOST.to_string())]);
    let hello = ready_as("DEALER");
    let round = || {
        for (name, bytes, counter) in instead_of_a_greeting() {
            cut_off(&server, name, &[&bytes], counter);
        }
        for (name, bytes, counter) in instead_of_a_ready() {
            cut_off(&server, name, &[&greeting(), &bytes], counter);
        }
        for (name, bytes, counter) in after_the_handshake() {
            cut_off(&server, name, &[&greeting(), &hello, &bytes], counter);
        }
        for (name, frames) in answered() {
            let mut wire = Wire::dealer(server.address).expect(name);
            let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            wire.message(&frames)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let answer = wire
                .answer()
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let header = String::from_utf8_lossy(&answer[0]).into_owned();
            assert!(
                header.contains(r#""error""#),
                "{name}: answered with {header}"
            );
            server.good_call();
        }
        server.calm_down();
    };
    // The first round fills what is kept for later: threads, their buffers, the allocator's.
    round();
    let before = server.memory();
    round();
    let after = server.memory();
    assert!(
        after <= before + before / 10,
        "the server holds {after} kB, {before} kB before"
    );
    let warnings = server
        .process
        .lines()
        .iter()
        .filter(|line| line.contains("refused a connection"))
        .count();
    assert!(
        warnings <= 1 + 5,
        "one address is written of {warnings} times"
    );
}

#[test]
fn a_duplicate_identity_takes_nothing_over() {
    let server = Server::start(&[]);
    let named = |identity: &[u8]| {
        let mut wire = Wire::connect(server.address).expect("a connection");
        wire.send(&greeting()).expect("sent");
        wire.send(&ready(&[
            ("Socket-Type", b"DEALER"),
            ("Identity", identity),
        ]))
        .expect("sent");
        std::io::Read::read_exact(&mut wire.stream(), &mut [0; 64]).expect("a greeting");
        wire.frame().expect("a READY");
        wire
    };
    for identity in [b"me".as_slice(), b"", &[0; 8], &[7; 255]] {
        let mut one = named(identity);
        assert_eq!(super::shout(&mut one).expect("an answer"), b"HELLO");
        let mut two = named(identity);
        assert_eq!(super::shout(&mut two).expect("an answer"), b"HELLO");
        assert_eq!(super::shout(&mut one).expect("the first goes on"), b"HELLO");
        drop(two);
        assert_eq!(super::shout(&mut one).expect("the first goes on"), b"HELLO");
    }
}

#[test]
fn a_payload_over_the_limit_is_answered_with_the_reason() {
    let server = Server::start(&[("PALM_MAX_PAYLOAD", "1000")]);
    let mut wire = Wire::dealer(server.address).expect("a connection");
    for (length, wanted) in [(1000, false), (1001, true), (2000, true)] {
        wire.message(&[
            br#"{"palm":1,"pipeline":["text.shout"]}"#,
            &vec![b'a'; length],
        ])
        .expect("sent");
        let answer = wire.answer().expect("an answer");
        let header = String::from_utf8_lossy(&answer[0]).into_owned();
        assert_eq!(
            header.contains("too_large"),
            wanted,
            "{length} bytes: {header}"
        );
    }
}

#[test]
fn messages_that_come_byte_by_byte_or_all_at_once_are_answered() {
    let server = Server::start(&[]);
    let mut wire = Wire::dealer(server.address).expect("a connection");
    let header = br#"{"palm":1,"pipeline":["text.shout"]}"#;
    let message = [frame(1, header), frame(0, b"hello")].concat();
    for byte in &message {
        wire.send(&[*byte]).expect("sent");
    }
    assert_eq!(wire.answer().expect("an answer")[1], b"HELLO");
    let many = 5_000;
    let mut reading = Wire::dealer(server.address).expect("a connection");
    let burst = message.repeat(many);
    let stream = reading.stream().try_clone().expect("a second handle");
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut &stream, &burst));
    for _ in 0..many {
        let answer = reading.answer().expect("an answer");
        // More at once than it will take: that, too, is an answer.
        assert!(answer[1] == b"HELLO" || String::from_utf8_lossy(&answer[0]).contains("busy"));
    }
    writer.join().expect("no panic").expect("all sent");
}

#[test]
fn a_thousand_incomplete_greetings_lock_nobody_out() {
    let server = Server::start(&[]);
    let half: Vec<Wire> = (0..1000)
        .map(|n: usize| {
            let mut wire = Wire::connect(server.address).expect("a connection");
            wire.send(&greeting()[..n % 64]).expect("sent");
            wire
        })
        .collect();
    server.good_call();
    for mut wire in half {
        wire.until_end().expect("cut off");
    }
    assert_eq!(server.refused("silent"), 1000);
    server.calm_down();
}
