//! All kinds of handshakes and streams from untrusted peers, in any fragmentation.

use super::{
    RejectReason,
    frames::{Limits, Scanner, Step},
    handshake::{ASKING, check_greeting, check_ready, greeting, is_native, ready},
};
use fastrand::Rng;
use std::time::Duration;

const LIMITS: Limits = Limits {
    bytes: 1000,
    frames: 8,
};

/// The outcome of a full stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    passed: Vec<u8>,
    pongs: Vec<Vec<u8>>,
    messages: u64,
    reason: Option<RejectReason>,
}

/// Scans a stream in these pieces, as the ingress does.
fn scan(limits: Limits, pieces: &[&[u8]]) -> Outcome {
    let mut scanner = Scanner::new(limits).asking_from(100);
    let mut outcome = Outcome::default();
    let mut kept = Vec::new();
    for piece in pieces {
        kept.extend_from_slice(piece);
        loop {
            match scanner.step(&kept, u64::MAX) {
                Ok(Step::Pass(count)) => outcome.passed.extend(kept.drain(..count)),
                Ok(Step::Ping(count, ping)) => {
                    outcome.pongs.push(ping.pong);
                    kept.drain(..count);
                }
                Ok(Step::Long(_)) => scanner.permit(),
                Ok(Step::Incomplete) => break,
                Err(reason) => {
                    outcome.reason = Some(reason);
                    outcome.messages = scanner.messages();
                    return outcome;
                }
            }
        }
        assert!(
            kept.len() <= 32,
            "only a piece of a header may be held, not {} bytes",
            kept.len()
        );
    }
    outcome.messages = scanner.messages();
    outcome
}

fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    match u8::try_from(body.len()) {
        Ok(length) if flags & 2 == 0 => [&[flags, length], body].concat(),
        _ => [
            &[flags | 2],
            (body.len() as u64).to_be_bytes().as_slice(),
            body,
        ]
        .concat(),
    }
}

fn ping(context: &[u8]) -> Vec<u8> {
    frame(4, &[b"\x04PING\x00\x0a", context].concat())
}

/// A stream of well-formed frames and PINGs, sometimes with something wrong at its end.
fn stream(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.usize(..20) {
        match rng.u8(..10) {
            0 => bytes.extend(ping(&vec![7; rng.usize(..=16)])),
            1 => bytes.extend(frame(2, &[1, 2, 3])),
            2 => bytes.extend((0..rng.usize(..12)).map(|_| rng.u8(..)).collect::<Vec<_>>()),
            _ => bytes.extend(frame(rng.u8(..2), &vec![b'x'; rng.usize(..400)])),
        }
    }
    bytes
}

fn pieces<'a>(rng: &mut Rng, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let max = if rng.bool() { 4 } else { bytes.len() };
        let (piece, rest) = bytes.split_at(rng.usize(1..=max.min(bytes.len())));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

#[test]
fn the_result_does_not_depend_on_fragmentation() {
    for seed in 0..20_000 {
        let mut rng = Rng::with_seed(seed);
        let bytes = stream(&mut rng);
        let whole = scan(LIMITS, &[&bytes]);
        let pieces = pieces(&mut rng, &bytes);
        assert_eq!(scan(LIMITS, &pieces), whole, "seed {seed}");
    }
}

#[test]
fn a_long_frame_waits_for_its_own_permit() {
    let mut scanner = Scanner::new(LIMITS).asking_from(100);
    let bytes = [
        frame(1, b"short"),
        frame(0, &[b'x'; 100]),
        frame(0, &[b'y'; 99]),
        frame(0, &[b'z'; 150]),
    ]
    .concat();
    assert_eq!(scanner.step(&bytes, u64::MAX), Ok(Step::Pass(7)));
    for _ in 0..2 {
        assert_eq!(
            scanner.step(&bytes[7..], u64::MAX),
            Ok(Step::Long(100)),
            "it is asked until it is answered"
        );
    }
    assert!(scanner.within_message());
    scanner.permit();
    assert_eq!(
        scanner.step(&bytes[7..], u64::MAX),
        Ok(Step::Pass(102 + 101))
    );
    assert_eq!(scanner.step(&bytes[210..], u64::MAX), Ok(Step::Long(150)));
}

#[test]
fn messages_can_be_passed_one_by_one_with_the_same_result() {
    for seed in 0..5_000 {
        let mut rng = Rng::with_seed(seed);
        let bytes = stream(&mut rng);
        let whole = scan(LIMITS, &[&bytes]);
        let mut scanner = Scanner::new(LIMITS);
        let (mut pos, mut passed) = (0, Vec::new());
        while let Ok(step) = scanner.step(&bytes[pos..], 1) {
            match step {
                Step::Pass(count) => passed.extend_from_slice(&bytes[pos..pos + count]),
                Step::Ping(..) => {}
                Step::Incomplete | Step::Long(_) => break,
            }
            let (Step::Pass(count) | Step::Ping(count, _)) = step else {
                break;
            };
            pos += count;
        }
        assert_eq!(
            (passed, scanner.messages()),
            (whole.passed, whole.messages),
            "seed {seed}"
        );
    }
}

#[test]
fn garbage_is_passed_or_refused_and_never_buffered() {
    for seed in 0..20_000 {
        let mut rng = Rng::with_seed(seed);
        let bytes: Vec<u8> = (0..rng.usize(..300)).map(|_| rng.u8(..)).collect();
        let pieces = pieces(&mut rng, &bytes);
        let outcome = scan(LIMITS, &pieces);
        assert!(outcome.passed.len() <= bytes.len());
        let _ = (check_greeting(&bytes), check_ready(&bytes, &ASKING));
    }
}

#[test]
fn a_frame_over_a_limit_is_refused_at_its_header() {
    let long = |length: u64| [&[2][..], &length.to_be_bytes()].concat();
    for (bytes, reason) in [
        (long(40 << 30), RejectReason::TooLong),
        (long(u64::MAX), RejectReason::TooLong),
        (long(1001), RejectReason::TooLong),
        (
            [frame(1, &[0; 600]), long(401)].concat(),
            RejectReason::TooLong,
        ),
        ([1_u8, 0].repeat(9), RejectReason::TooManyFrames),
        ([1_u8, 0].repeat(1_000_000), RejectReason::TooManyFrames),
        (vec![8, 0], RejectReason::Flags),
        (vec![0xff, 0], RejectReason::Flags),
        (vec![5, 0], RejectReason::Flags),
        (frame(4, b"\x05READY"), RejectReason::Command),
        (frame(4, b"\x04PONG"), RejectReason::Command),
        (frame(4, b"\x04PING\x00"), RejectReason::Command),
        (frame(4, b"\xffPING"), RejectReason::Command),
        (frame(4, b""), RejectReason::Command),
        (ping(&[0; 17]), RejectReason::Command),
        (
            [&[6][..], &(1_u64 << 62).to_be_bytes()].concat(),
            RejectReason::Command,
        ),
        (frame(4, b"\x09SUBSCRIBEx"), RejectReason::Command),
        (frame(4, b"\x05ERROR\x00"), RejectReason::Command),
    ] {
        let outcome = scan(LIMITS, &[&bytes]);
        assert_eq!(
            outcome.reason,
            Some(reason),
            "{:?}…",
            &bytes[..bytes.len().min(20)]
        );
    }
}

#[test]
fn a_frame_at_the_limit_passes() {
    let bytes = [
        frame(1, &[0; 600]),
        frame(0, &[0; 400]),
        [1, 0].repeat(7),
        vec![0, 0],
    ]
    .concat();
    let outcome = scan(LIMITS, &[&bytes]);
    assert_eq!(
        (outcome.reason, outcome.messages, outcome.passed),
        (None, 2, bytes)
    );
}

#[test]
fn a_ping_is_answered_with_its_context_and_not_passed_on() {
    // libzmq sends it between two frames of one message, too.
    let bytes = [frame(1, b"a"), ping(b"ctx"), frame(0, b"b")].concat();
    let outcome = scan(LIMITS, &[&bytes]);
    assert_eq!(outcome.pongs, [frame(4, b"\x04PONGctx")]);
    assert_eq!(outcome.passed, [frame(1, b"a"), frame(0, b"b")].concat());
    let Ok(Step::Ping(_, ping)) = Scanner::new(LIMITS).step(&ping(b""), 1) else {
        panic!("a PING")
    };
    assert_eq!(ping.silence, Duration::from_secs(1));
}

#[test]
fn our_own_and_longer_greetings_are_accepted() {
    assert_eq!(check_greeting(&greeting()), Ok(true));
    assert_eq!(check_greeting(&greeting()[..63]), Ok(false));
    let mut newer = greeting();
    (newer[8], newer[10], newer[11]) = (1, 3, 1);
    assert_eq!(check_greeting(&newer), Ok(true));
    for (kind, identity) in [
        ("DEALER", None),
        ("REQ", Some(b"".as_slice())),
        ("DEALER", Some(b"me")),
    ] {
        for native in [false, true] {
            let mut bytes = ready(kind, identity, native);
            let length = bytes.len();
            assert_eq!(check_ready(&bytes[..length - 1], &ASKING), Ok(None));
            assert_eq!(is_native(&bytes), native);
            bytes.extend_from_slice(b"more");
            assert_eq!(check_ready(&bytes, &ASKING), Ok(Some(length)));
        }
    }
}

#[test]
fn a_later_version_of_native_links_includes_this_one() {
    let ready = |version: &[u8]| {
        let mut body = b"\x05READY\x06x-palm\0\0\0".to_vec();
        body.push(u8::try_from(version.len()).expect("short"));
        frame(4, &[&body, version].concat())
    };
    for (version, native) in [
        (&b"2"[..], true),
        (b"3", true),
        (b"20", true),
        (b"1", false),
        (b"", false),
        (b"two", false),
        (b"-2", false),
        (b"99999999999", false),
        (b"\xff", false),
    ] {
        assert_eq!(is_native(&ready(version)), native, "{version:?}");
    }
    assert!(!is_native(b"") && !is_native(&frame(4, b"\x05ERROR")));
}

#[test]
fn other_greetings_are_refused_at_the_first_wrong_byte() {
    let greeting = |pos: usize, byte: u8| {
        let mut bytes = greeting();
        bytes[pos] = byte;
        bytes
    };
    for (bytes, reason) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), RejectReason::NotZmtp),
        (b"\x16\x03\x01".to_vec(), RejectReason::Tls),
        (b"\x15\x03".to_vec(), RejectReason::Tls),
        (b"\x16\x04".to_vec(), RejectReason::NotZmtp),
        (vec![1], RejectReason::NotZmtp),
        (greeting(9, 0).to_vec(), RejectReason::NotZmtp),
        (greeting(10, 2)[..11].to_vec(), RejectReason::Version),
        (greeting(12, b'P')[..13].to_vec(), RejectReason::Mechanism),
        (greeting(16, b'X').to_vec(), RejectReason::Mechanism),
        (greeting(31, 1).to_vec(), RejectReason::Mechanism),
    ] {
        assert_eq!(check_greeting(&bytes), Err(reason), "{bytes:?}");
    }
    let property = |name: &str, value: &[u8]| {
        let length = u32::try_from(value.len()).expect("short").to_be_bytes();
        [
            &[u8::try_from(name.len()).expect("short")],
            name.as_bytes(),
            &length,
            value,
        ]
        .concat()
    };
    let of =
        |properties: &[Vec<u8>]| frame(4, &[b"\x05READY".to_vec(), properties.concat()].concat());
    let dealer = property("Socket-Type", b"DEALER");
    for (bytes, reason) in [
        (of(&[]), RejectReason::Ready),
        (of(&[dealer.clone(), dealer.clone()]), RejectReason::Ready),
        (of(&[dealer.clone(), vec![3]]), RejectReason::Ready),
        (
            of(&[dealer.clone(), property("", b"x")]),
            RejectReason::Ready,
        ),
        (
            of(&[dealer.clone(), b"\x01x\xff\xff\xff\xff".to_vec()]),
            RejectReason::Ready,
        ),
        (
            of(&[dealer.clone(), property("Identity", &[1; 256])]),
            RejectReason::Identity,
        ),
        (
            of(&[property("Socket-Type", b"PUB")]),
            RejectReason::SocketType,
        ),
        (frame(0, b"hello"), RejectReason::Ready),
        (frame(4, b"\x05HELLO"), RejectReason::Ready),
        (frame(4, b""), RejectReason::Ready),
        (vec![6, 0, 0, 0, 9, 0, 0, 0, 0], RejectReason::Ready),
        (vec![0xff, 0], RejectReason::Ready),
    ] {
        assert_eq!(check_ready(&bytes, &ASKING), Err(reason), "{bytes:?}");
    }
}
