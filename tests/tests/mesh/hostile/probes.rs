//! Answers of a hostile server to the leader's probes.

use super::{
    SOON, World, harmless,
    rogue::{Mind, Rogue},
};
use palm_tests::wire::frame;
use serde_json::json;
use std::{thread, time::Duration};

const OWNED: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\r\u{9b}31m\nERROR:registry:a line of its own";

fn bad_probes() -> Vec<(&'static str, Mind)> {
    vec![
        (
            "a log that steers terminals",
            Mind::probed(|wire, asked| asked.answer(wire, OWNED.as_bytes())),
        ),
        (
            "a log that is no UTF-8",
            Mind::probed(|wire, asked| asked.answer(wire, b"\xff\xfeI,\xc3\x28")),
        ),
        (
            "a log of 4 MB",
            Mind::probed(|wire, asked| asked.answer(wire, &vec![b'I'; 4_000_000])),
        ),
        (
            "a log of 12 MB",
            Mind::probed(|wire, asked| asked.answer(wire, &vec![b'I'; 12 << 20])),
        ),
        (
            "deeply nested JSON for a log",
            Mind::probed(|wire, asked| asked.answer(wire, &vec![b'['; 1_000_000])),
        ),
        (
            "a log of 40 GB",
            Mind::probed(|wire, _| wire.send(&[&[2][..], &(40_u64 << 30).to_be_bytes()].concat())),
        ),
        (
            "an error that steers terminals",
            Mind::probed(|wire, asked| {
                let mut header = asked.header();
                header["error"] = json!({"kind": "failed", "message": OWNED});
                wire.message(&[header.to_string().as_bytes(), b""])
            }),
        ),
        (
            "an error of 60 kB, another each time",
            Mind::probed(|wire, asked| {
                let mut header = asked.header();
                let message = format!(
                    "{:?} {}",
                    std::time::Instant::now(),
                    "\u{1b}x".repeat(8_000)
                );
                header["error"] = json!({"kind": "failed", "message": message});
                wire.message(&[header.to_string().as_bytes(), b""])
            }),
        ),
        (
            "deeply nested JSON for a header",
            Mind::probed(|wire, _| wire.message(&[&vec![b'['; 60_000], b""])),
        ),
        (
            "an answer to something else",
            Mind::probed(|wire, asked| {
                let mut header = asked.header();
                header["idx"] = 999_999.into();
                wire.message(&[header.to_string().as_bytes(), b"I"])
            }),
        ),
        (
            "its log, endlessly",
            Mind::probed(|wire, asked| {
                let one = [
                    frame(1, asked.header().to_string().as_bytes()),
                    frame(0, b"I,I"),
                ]
                .concat()
                .repeat(1000);
                loop {
                    wire.send(&one)?;
                }
            }),
        ),
        ("silence", Mind::probed(|_, _| Ok(()))),
        (
            "a goodbye, and nothing else",
            Mind::probed(|wire, asked| {
                let mut header = asked.header();
                header["bye"] = true.into();
                wire.message(&[header.to_string().as_bytes(), b""])
            }),
        ),
    ]
}

fn start_all(world: &World, later: bool) -> Vec<(&'static str, Rogue)> {
    let start = |(place, (name, mind)): (usize, (&'static str, Mind))| {
        let mind = if later { mind.later() } else { mind };
        (
            name,
            Rogue::start(&world.etcd, &format!("rogue{place}"), mind),
        )
    };
    bad_probes().into_iter().enumerate().map(start).collect()
}

fn against_the_leader(later: bool) {
    let world = World::start_with("1", "0.5");
    let rogues = start_all(&world, later);
    if later {
        for (_, rogue) in &rogues {
            rogue.await_published(&world.etcd);
        }
        for (_, rogue) in &rogues {
            rogue.turn_bad();
        }
    }
    // A few rounds of probes.
    thread::sleep(Duration::from_secs(5));
    world.is_well("all answers at once");
    for (name, rogue) in &rogues {
        eprintln!("{name}: {} connections", rogue.opened());
        assert!(
            rogue.opened() < 100,
            "{name}: {} connections in a few seconds",
            rogue.opened()
        );
    }
    let lines = world.leader.lines();
    harmless(&lines);
    let longest = lines.iter().map(String::len).max().unwrap_or(0);
    assert!(
        longest < 300_000,
        "a line of {longest} bytes in the leader's log"
    );
    let (code, status) = world.cli(&["status"]);
    assert_eq!(code, Some(0), "{status:?}");
    harmless(&status);
    assert!(
        lines.iter().any(|line| line.contains("owned")),
        "it is shown, but harmless"
    );
    assert!(
        !lines
            .iter()
            .any(|line| line.starts_with("ERROR:registry:a line")),
        "no server writes lines of the leader's"
    );
}

#[test]
fn no_answer_to_its_first_probe_harms_the_leader() {
    crate::heavy();
    against_the_leader(false);
}

#[test]
fn no_answer_to_a_later_probe_harms_the_leader() {
    crate::heavy();
    against_the_leader(true);
}

/// While others answer badly, who joins is configured, and who dies is found out.
#[test]
fn the_leader_works_among_many_bad_servers() {
    crate::heavy();
    let world = World::start_with("1", "0.5");
    let rogues = start_all(&world, false);
    thread::sleep(Duration::from_secs(2));
    let joined = palm_tests::Process::builder(palm_tests::example("printf"))
        .arg("run")
        .env("PALM_ETCD", world.etcd.endpoint())
        .start();
    palm_tests::eventually("who joins can be called", SOON, || {
        (world.cli(&["call", "printf.printf", "hello"]).1 == ["hello"]).then_some(())
    });
    joined.kill();
    palm_tests::eventually("who dies is found out", SOON, || {
        world
            .cli(&["call", "printf.printf", "hello"])
            .1
            .join("")
            .contains("no_such_server")
            .then_some(())
    });
    world.is_well("many at once");
    drop(rogues);
}
