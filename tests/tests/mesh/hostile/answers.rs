//! Answers of a hostile server to clients.

use super::{
    SOON, World, memory,
    rogue::{Asked, Mind, Rogue},
    stay_calm,
};
use palm_tests::wire::{Wire, frame};
use serde_json::json;
use std::{io, time::Duration};
use uuid::Uuid;

fn announced(flags: u8, length: u64) -> Vec<u8> {
    [&[flags][..], &length.to_be_bytes()].concat()
}

/// Says it until the other side has had enough, a minute at most.
fn for_ever(wire: &mut Wire, bytes: &[u8]) -> io::Result<()> {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while std::time::Instant::now() < end {
        wire.send(bytes)?;
    }
    Ok(())
}

fn with(asked: &Asked, field: &str, value: serde_json::Value) -> Vec<u8> {
    let mut header = asked.header();
    header[field] = value;
    header.to_string().into_bytes()
}

/// Everything.
fn bad_answers() -> Vec<(&'static str, Mind)> {
    [bad_frames(), endless_answers(), bad_headers()]
        .into_iter()
        .flatten()
        .collect()
}

/// What breaks the rules of the wire, or says nothing.
fn bad_frames() -> Vec<(&'static str, Mind)> {
    vec![
        (
            "a frame of 40 GB",
            Mind::called(|wire, _| wire.send(&announced(2, 40 << 30))),
        ),
        (
            "a frame of 16 EB",
            Mind::called(|wire, _| wire.send(&announced(2, u64::MAX))),
        ),
        (
            "a payload of 40 GB",
            Mind::called(|wire, asked| {
                wire.send(&frame(1, asked.header().to_string().as_bytes()))?;
                wire.send(&announced(2, 40 << 30))
            }),
        ),
        (
            "a payload that is announced and does not come",
            Mind::called(|wire, asked| {
                wire.send(&frame(1, asked.header().to_string().as_bytes()))?;
                wire.send(&announced(2, 4 << 20))
            }),
        ),
        (
            "a million empty frames",
            Mind::called(|wire, _| wire.send(&[1, 0].repeat(1_000_000))),
        ),
        (
            "a payload over the limit",
            Mind::called(|wire, asked| asked.answer(wire, &vec![0; 12 << 20])),
        ),
        (
            "a command out of place",
            Mind::called(|wire, _| wire.send(&frame(4, b"\x05HELLO"))),
        ),
        (
            "impossible flags",
            Mind::called(|wire, _| wire.send(&[0xff, 0])),
        ),
        (
            "half a frame, and the end",
            Mind::called(|wire, _| {
                wire.send(&announced(2, 1000))?;
                wire.send(b"half of it")?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }),
        ),
        (
            "the end at once",
            Mind::called(|_, _| Err(io::ErrorKind::ConnectionAborted.into())),
        ),
        ("nothing", Mind::called(|_, _| Ok(()))),
    ]
}

/// What does not end by itself.
fn endless_answers() -> Vec<(&'static str, Mind)> {
    vec![
        (
            "endless answers that nobody asked for",
            Mind::called(|wire, asked| {
                let one = [
                    frame(1, &with(asked, "idx", 999_999.into())),
                    frame(0, &[b'x'; 1000]),
                ]
                .concat();
                for_ever(wire, &one.repeat(50))
            }),
        ),
        (
            "endless answers to a job that nobody runs",
            Mind::called(|wire, asked| {
                let header = with(asked, "job", Uuid::new_v4().to_string().into());
                for_ever(
                    wire,
                    &[frame(1, &header), frame(0, &[b'x'; 1000])]
                        .concat()
                        .repeat(50),
                )
            }),
        ),
        (
            "the right answer, endlessly",
            Mind::called(|wire, asked| {
                let one = [
                    frame(1, asked.header().to_string().as_bytes()),
                    frame(0, &[b'x'; 1000]),
                ]
                .concat();
                for_ever(wire, &one.repeat(50))
            }),
        ),
        (
            "endless garbage",
            Mind::called(|wire, _| {
                for_ever(
                    wire,
                    &[frame(1, b"garbage"), frame(0, b"x")].concat().repeat(1000),
                )
            }),
        ),
        (
            "endless PINGs",
            Mind::called(|wire, _| {
                for_ever(wire, &frame(4, b"\x04PING\x00\x0acontext").repeat(1000))
            }),
        ),
    ]
}

/// Messages as they should be, with headers as they should not be.
fn bad_headers() -> Vec<(&'static str, Mind)> {
    vec![
        (
            "garbage for a header",
            Mind::called(|wire, _| wire.message(&[b"\xff\xfe\x00garbage", b"x"])),
        ),
        (
            "JSON of another kind",
            Mind::called(|wire, _| wire.message(&[b"[1,2,3]", b"x"])),
        ),
        (
            "no frame but an empty one",
            Mind::called(|wire, _| wire.message(&[b""])),
        ),
        (
            "no payload",
            Mind::called(|wire, asked| wire.message(&[&with(asked, "palm", 1.into())])),
        ),
        (
            "an answer to something else",
            Mind::called(|wire, asked| wire.message(&[&with(asked, "idx", 999.into()), b"x"])),
        ),
        (
            "an answer to another job",
            Mind::called(|wire, asked| {
                wire.message(&[&with(asked, "job", Uuid::new_v4().to_string().into()), b"x"])
            }),
        ),
        (
            "another version",
            Mind::called(|wire, asked| wire.message(&[&with(asked, "palm", 9.into()), b"x"])),
        ),
        (
            "an index that no number holds",
            Mind::called(|wire, _| wire.message(&[br#"{"palm":1,"idx":1e999}"#, b"x"])),
        ),
        (
            "a goodbye instead",
            Mind::called(|wire, asked| wire.message(&[&with(asked, "bye", true.into()), b""])),
        ),
        (
            "a header of 64 KiB and more",
            Mind::called(|wire, asked| {
                wire.message(&[&with(asked, "x", "y".repeat(65_536).into()), b"x"])
            }),
        ),
        (
            "a header of 8 MB",
            Mind::called(|wire, asked| {
                wire.message(&[&with(asked, "x", "y".repeat(8_000_000).into()), b"x"])
            }),
        ),
        (
            "deeply nested lists",
            Mind::called(|wire, _| wire.message(&[&vec![b'['; 60_000], b"x"])),
        ),
        (
            "deeply nested objects",
            Mind::called(|wire, _| {
                wire.message(&[
                    format!(r#"{{"palm":1,"error":{}"#, r#"{"a":"#.repeat(10_000)).as_bytes(),
                    b"",
                ])
            }),
        ),
        (
            "an error of a kind that nobody knows",
            Mind::called(|wire, asked| {
                wire.message(&[
                    &with(asked, "error", json!({"kind": "\u{1b}[2J", "message": ""})),
                    b"",
                ])
            }),
        ),
        (
            "an error that steers terminals",
            Mind::called(|wire, asked| {
                let error = json!({"kind": "failed", "message": "\u{1b}]0;owned\u{7}\u{1b}[2J\r\n\u{9b}31m".repeat(100)});
                wire.message(&[&with(asked, "error", error), b"and a payload"])
            }),
        ),
    ]
}

/// One mesh with all of them, and a client for each.
fn against_callers(job: bool) {
    let world = World::start();
    let start = |(place, (name, mind))| {
        (
            name,
            format!("rogue{place}"),
            Rogue::start(&world.etcd, &format!("rogue{place}"), mind),
        )
    };
    let rogues: Vec<_> = bad_answers().into_iter().enumerate().map(start).collect();
    for (_, _, rogue) in &rogues {
        rogue.await_published(&world.etcd);
    }
    let call = |(name, server, _): &(&'static str, String, Rogue)| {
        (*name, world.caller(&format!("{server}.f"), job))
    };
    let callers: Vec<_> = rogues.iter().map(call).collect();
    for (name, caller) in &callers {
        // The callers wait a minute for what is good, and say both then.
        let (bad, _) = caller.wait_for_line(|line| line.starts_with("bad: "), 4 * SOON);
        let (good, _) = caller.wait_for_line(|line| line.starts_with("good: "), SOON);
        if job {
            assert!(bad.starts_with("bad: ended 20 of them"), "{name}: {bad}");
            assert_eq!(good, "good: ended 20 of them well 20", "{name}");
        } else {
            assert!(
                bad.starts_with("bad: ok") || bad.starts_with("bad: error"),
                "{name}: {bad}"
            );
            assert_eq!(good, "good: ok 5", "{name}");
        }
        eprintln!("{name}: {bad}");
    }
    let mut all: Vec<_> = callers
        .iter()
        .map(|(name, caller)| (*name, caller))
        .collect();
    all.push(("the leader, which passes on to all of them", &world.leader));
    stay_calm(&all);
    world.good_call();
}

#[test]
fn no_answer_harms_a_client() {
    crate::heavy();
    against_callers(false);
}

/// palm-cli ends, says why in a line or two, and steers no terminal.
#[test]
fn no_answer_harms_the_command_line() {
    crate::heavy();
    let world = World::start();
    let start = |(place, (name, mind))| {
        (
            name,
            Rogue::start(&world.etcd, &format!("rogue{place}"), mind),
        )
    };
    let rogues: Vec<_> = bad_answers().into_iter().enumerate().map(start).collect();
    for (_, rogue) in &rogues {
        rogue.await_published(&world.etcd);
    }
    let call = |(place, (name, _)): (usize, &(&'static str, Rogue))| {
        (
            *name,
            world.start_cli(&["call", &format!("rogue{place}.f"), "x"]),
        )
    };
    let calls: Vec<_> = rogues.iter().enumerate().map(call).collect();
    for (name, call) in &calls {
        let status = call.wait(SOON).code();
        assert!(
            matches!(status, Some(0 | 1)),
            "{name}: {status:?} {:?}",
            call.lines()
        );
        if status == Some(1) {
            super::harmless(&call.lines());
            assert!(
                call.lines().iter().map(String::len).sum::<usize>() < 20_000,
                "{name}: {:?}",
                call.lines()
            );
        }
    }
    world.is_well("palm-cli");
}

#[test]
fn no_answer_harms_a_job_or_a_previous_stage() {
    crate::heavy();
    against_callers(true);
}

/// A server that is asked for one message of a job, and answers it again and again while the
/// results are not read.
#[test]
fn an_unpolled_job_cannot_be_flooded() {
    crate::heavy();
    let world = World::start();
    let rogue = Rogue::published(
        &world.etcd,
        "filler",
        Mind::called(|wire, asked| {
            let one = [
                frame(1, asked.header().to_string().as_bytes()),
                frame(0, &vec![b'x'; 100_000]),
            ]
            .concat();
            (0..5000).try_for_each(|_| wire.send(&one))
        }),
    );
    let holder = world.caller_with("filler.f", "--hold");
    holder.wait_for_line(|line| line == "holding after a result", SOON);
    // Half a gigabyte, if it were kept.
    std::thread::sleep(Duration::from_secs(3));
    let held = memory(&holder, "VmRSS:");
    assert!(
        held < 100 << 10,
        "{held} kB are held for a job whose window is 4 messages"
    );
    drop((holder, rogue));
    world.is_well("a job that nobody polled");
}

#[test]
fn answers_of_servers_cannot_control_the_terminal() {
    let world = World::start();
    let error =
        json!({"kind": "failed", "message": "\u{1b}]0;owned\u{7}\u{1b}[2J\r\u{9b}31m and\nmore"});
    let _rogue = Rogue::published(
        &world.etcd,
        "painter",
        Mind::called(move |wire, asked| wire.message(&[&with(asked, "error", error.clone()), b""])),
    );
    let (code, lines) = world.cli(&["call", "painter.f", "x"]);
    assert_eq!(code, Some(1), "{lines:?}");
    assert!(lines.join(" ").contains("owned"), "{lines:?}");
    super::harmless(&lines);
    world.is_well("a painter");
}
