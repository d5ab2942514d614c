//! Properties that hold for any untrusted input. The targets under `fuzz_targets` search for
//! violations; the tests here check the inputs under `seeds`, and thousands of mutations of them,
//! against the same properties.

// A violation is a panic, as in a test.
#![allow(clippy::expect_used)]

#[cfg(test)]
mod tests;

use palm_proto::{
    registrations::Registered,
    types::{
        compact::{self, Compact, MAX_TEMPLATE_BYTES},
        instance::Instance,
        message::{self, Answer, CallErrorKind, CallFailure, Incoming, MAX_HEADER_BYTES},
        names,
        record::{self, Record},
        tombstone::Tombstone,
    },
    zmtp::{
        frames::{Limits, Scanner, Step},
        handshake::{ANSWERING, ASKING, check_greeting, check_ready},
        messages::{Decoder, Incoming as Arrived},
    },
};

/// A target: checks arbitrary bytes. Panics when a property is violated.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Target); 5] = [
    ("opening", opening),
    ("stream", stream),
    ("header", header),
    ("compact", compact),
    ("record", record),
];

/// The handshake of a connection: the result does not change when more bytes arrive, and nothing
/// incomplete is accepted.
///
/// # Panics
/// When a property is violated.
pub fn opening(bytes: &[u8]) {
    let (mut greeted, mut ready) = (Ok(false), [Ok(None), Ok(None)]);
    for end in 0..=bytes.len().min(4096) {
        let part = &bytes[..end];
        let greets = check_greeting(part);
        assert!(
            greeted == Ok(false) || greeted == greets,
            "a greeting changed its mind at {end}"
        );
        greeted = greets;
        for (before, theirs) in ready.iter_mut().zip([&ASKING[..], &ANSWERING[..]]) {
            let readies = check_ready(part, theirs);
            assert!(
                *before == Ok(None) || *before == readies,
                "a READY changed its mind at {end}"
            );
            assert!(readies != Ok(Some(0)) && !matches!(readies, Ok(Some(length)) if length > end));
            *before = readies;
        }
    }
}

/// A stream of frames: the result does not depend on fragmentation, only data within the limits is
/// passed, and no more than a header is held back; and the decoder gets the same messages. The
/// first byte selects the fragmentation.
///
/// # Panics
/// When a property is violated.
pub fn stream(bytes: &[u8]) {
    const LIMITS: Limits = Limits {
        bytes: 1000,
        frames: 8,
    };
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let (whole, piece) = (bytes.len().max(1), usize::from(*first) + 1);
    let scanned = scan(LIMITS, bytes, whole);
    assert_eq!(scan(LIMITS, bytes, piece), scanned, "in other pieces");
    let messages = check_passed(LIMITS, &scanned.passed);
    let decoded = decode(LIMITS, bytes, piece);
    assert_eq!(decode(LIMITS, bytes, whole), decoded, "in other pieces");
    assert_eq!((decoded.0.len(), decoded.1), (messages, scanned.refused));
}

/// The result of scanning a stream.
#[derive(Debug, PartialEq, Eq)]
struct Scanned {
    passed: Vec<u8>,
    refused: bool,
}

/// Returns the messages of a stream in pieces of `size`, and whether it is refused then.
fn decode(limits: Limits, bytes: &[u8], size: usize) -> (Vec<Vec<bytes::Bytes>>, bool) {
    let (mut decoder, mut messages) = (Decoder::new(limits), Vec::new());
    for mut piece in bytes.chunks(size) {
        loop {
            match decoder.decode(&mut piece) {
                Ok(Some(Arrived::Message(frames))) => messages.push(frames),
                Ok(Some(Arrived::Ping(ping))) => assert!(ping.pong.len() <= 32, "a PONG is short"),
                Ok(Some(Arrived::Pong(_))) => {}
                Ok(None) => break,
                Err(_) => return (messages, true),
            }
        }
        assert!(piece.is_empty(), "what is not refused is taken");
    }
    (messages, false)
}

/// Returns what is passed of a stream in pieces of `size`, and whether it is refused then.
fn scan(limits: Limits, bytes: &[u8], size: usize) -> Scanned {
    let mut scanner = Scanner::new(limits).asking_from(100);
    let (mut passed, mut kept) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(size) {
        kept.extend_from_slice(piece);
        loop {
            match scanner.step(&kept, u64::MAX) {
                Ok(Step::Pass(count)) => passed.extend(kept.drain(..count)),
                Ok(Step::Ping(count, ping)) => {
                    assert!(ping.pong.len() <= 32 && count <= 32, "a PING is short");
                    kept.drain(..count);
                }
                Ok(Step::Long(_)) => scanner.permit(),
                Ok(Step::Incomplete) => break,
                Err(_) => {
                    return Scanned {
                        passed,
                        refused: true,
                    };
                }
            }
        }
        assert!(kept.len() <= 32, "{} bytes are held back", kept.len());
    }
    Scanned {
        passed,
        refused: false,
    }
}

/// Parses the passed bytes in the simplest possible way. Returns how many messages are complete.
fn check_passed(limits: Limits, mut bytes: &[u8]) -> usize {
    let (mut messages, mut frames, mut length) = (0, 0, 0_u64);
    while let [flags, rest @ ..] = bytes {
        assert!(
            flags & !3 == 0,
            "a command, or what is no frame, was passed"
        );
        let (body, rest) = if flags & 2 == 0 {
            let Some((body, rest)) = rest.split_first() else {
                return messages;
            };
            (u64::from(*body), rest)
        } else {
            let Some((body, rest)) = rest.split_first_chunk() else {
                return messages;
            };
            (u64::from_be_bytes(*body), rest)
        };
        frames += 1;
        length += body;
        assert!(
            frames <= limits.frames && length <= limits.bytes,
            "{frames} frames of {length} bytes were passed"
        );
        let body = usize::try_from(body).expect("within the limits");
        let Some(after) = rest.get(body..) else {
            return messages;
        };
        bytes = after;
        if flags & 1 == 0 {
            messages += 1;
            frames = 0;
            length = 0;
        }
    }
    messages
}

/// The header of a request or an answer: a valid one round-trips, and an invalid one is answered
/// with a header that fits.
///
/// # Panics
/// When a property is violated.
pub fn header(bytes: &[u8]) {
    match message::decode(bytes) {
        Ok(Incoming::Request(request)) => {
            assert!(bytes.len() <= MAX_HEADER_BYTES && request.stage < request.pipeline.len());
            assert!(request.route.is_empty() || request.route.len() == request.pipeline.len());
            assert!(!request.goes_on() || request.client.is_some());
            assert_eq!(
                message::decode(&request.encode()),
                Ok(Incoming::Request(request.clone()))
            );
            let target = &request.pipeline[request.stage];
            if let Some((server, function)) = names::split_target(target) {
                assert_eq!(&format!("{server}.{function}"), target);
            }
        }
        Ok(Incoming::Hello { client, .. }) => {
            let again = message::decode(&message::encode_hello(client));
            assert_eq!(
                again,
                Ok(Incoming::Hello {
                    client,
                    bye: true,
                    identify: false
                })
            );
        }
        Ok(Incoming::GoodbyeAck) => assert!(bytes.len() <= MAX_HEADER_BYTES),
        Err(bad) => {
            let mut answer = Answer::greeting(uuid::Uuid::nil());
            answer.job = bad.job;
            answer.idx = bad.idx;
            answer.stage = Some(0);
            answer.error = Some(CallFailure::new(CallErrorKind::BadMessage, bad.message));
            let encoded = answer.encode();
            assert!(
                encoded.len() <= MAX_HEADER_BYTES,
                "an answer with a header of {} bytes",
                encoded.len()
            );
            assert_eq!(Answer::decode(&encoded), Some(answer));
        }
    }
    if let Some(answer) = Answer::decode(bytes) {
        assert!(bytes.len() <= MAX_HEADER_BYTES);
        assert_eq!(Answer::decode(&answer.encode()), Some(answer));
    }
}

/// The compact headers of a connection, each after its length in one byte: a valid one round-trips,
/// what is registered stays within the limits, a request is one that JSON could express, and an
/// invalid one is answered with a header that fits.
///
/// # Panics
/// When a property is violated.
pub fn compact(mut bytes: &[u8]) {
    let (mut registered, mut lengths) = (Registered::default(), [0; 256]);
    while let Some((length, rest)) = bytes.split_first() {
        let (one, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        bytes = rest;
        if !compact::is_compact(one) {
            // It is read as JSON.
            header(one);
            continue;
        }
        let decoded = Compact::decode(one);
        if let Ok(header) = &decoded {
            let mut again = Vec::new();
            header.encode(&mut again);
            assert_eq!(again, one);
        }
        let bad = match decoded {
            Ok(Compact::Register { number, job, json }) => {
                registered.register(number, job, json);
                if let Some(length) = lengths.get_mut(usize::from(number)) {
                    *length = registered.template(number).map_or(0, |_| json.len());
                }
                assert!(lengths.iter().sum::<usize>() <= MAX_TEMPLATE_BYTES);
                None
            }
            Ok(Compact::Unregister { number }) => {
                registered.unregister(number);
                assert!(registered.template(number).is_none());
                None
            }
            Ok(Compact::Instance { number, uuid }) => {
                registered.register_instance(number, uuid);
                assert_eq!(registered.instance(number), Some(uuid));
                None
            }
            Ok(Compact::Result(_)) => None,
            Ok(Compact::Request(request)) => match registered.request(&request) {
                Ok((expanded, template)) => {
                    assert_eq!(expanded.idx, Some(request.idx));
                    assert_eq!(expanded.job, template.request.job);
                    header(&expanded.encode());
                    None
                }
                Err(bad) => Some(bad),
            },
            Err(bad) => Some(bad),
        };
        if let Some(bad) = bad {
            assert!(bad.message.len() <= 200, "{}", bad.message);
        }
    }
}

/// Values in etcd: a valid one round-trips, its display contains no control characters, and the
/// error of an invalid one is short.
///
/// # Panics
/// When a property is violated.
pub fn record(bytes: &[u8]) {
    match Record::from_json(bytes) {
        Ok(record) => {
            assert!(bytes.len() <= record::LONGEST);
            // Times are cut to microseconds, so the written form is compared.
            let written = record.to_json();
            let again = Record::from_json(written.as_bytes()).map(|record| record.to_json());
            assert_eq!(again.as_ref(), Ok(&written));
            let endpoint = record.endpoint();
            for text in [&record.server, &record.kind, &endpoint]
                .into_iter()
                .chain(&record.functions)
            {
                assert!(
                    !text.chars().any(|c| c.is_control() || c.is_whitespace()),
                    "{text:?} would be shown"
                );
            }
        }
        Err(broken) => assert!(broken.to_string().chars().count() <= 210, "{broken}"),
    }
    let of_key = serde_json::from_slice::<Instance>(bytes)
        .map(|instance| format!("{}/{}", instance.server, instance.uuid));
    if let Some((key, instance)) = of_key
        .ok()
        .and_then(|key| Some((key.clone(), Instance::from_entry(&key, bytes)?)))
    {
        assert_eq!(
            Instance::from_entry(&key, instance.to_json().as_bytes()),
            Some(instance)
        );
    }
    if let Some(departure) = Tombstone::from_json(bytes) {
        let again = Tombstone::from_json(departure.to_json().as_bytes())
            .map(|departure| departure.to_json());
        assert_eq!(again, Some(departure.to_json()));
    }
}
