//! Handshakes of a hostile server, in particular with the leader.

use super::{
    SOON, World,
    rogue::{Mind, Rogue, put_on_lease},
    stay_calm,
};
use palm_tests::{
    Etcd, Process, eventually, example,
    wire::{Wire, frame, greeting, ready},
};
use serde_json::json;
use std::{io, thread, time::Duration};

fn open(wire: &mut Wire) -> io::Result<()> {
    wire.open_as_router()?;
    wire.answer().map(drop)
}

/// Opens the connection, and proves to be the server of this uuid.
fn greet(wire: &mut Wire, uuid: &str) -> io::Result<()> {
    open(wire)?;
    let greeting = json!({"palm": 1, "server": uuid}).to_string();
    wire.message(&[greeting.as_bytes(), b""])
}

/// Keeps the connection, and says no more, until that is ended from outside.
fn silence(wire: &mut Wire) -> io::Result<bool> {
    wire.until_end().map(|_| false)
}

fn bad_openings() -> Vec<(&'static str, Mind)> {
    let mut all = bad_handshakes();
    all.extend(bad_greetings());
    all
}

fn bad_handshakes() -> Vec<(&'static str, Mind)> {
    vec![
        ("the end at once", Mind::opened(|_, _| Ok(false))),
        ("silence", Mind::opened(|wire, _| silence(wire))),
        (
            "half a greeting, and silence",
            Mind::opened(|wire, _| wire.send(&greeting()[..30]).and_then(|()| silence(wire))),
        ),
        (
            "half a greeting, and the end",
            Mind::opened(|wire, _| wire.send(&greeting()[..30]).map(|()| false)),
        ),
        (
            "HTTP",
            Mind::opened(|wire, _| {
                wire.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    .and_then(|()| silence(wire))
            }),
        ),
        ("a greeting of another mechanism", {
            let mut other = greeting();
            other[12..17].copy_from_slice(b"PLAIN");
            Mind::opened(move |wire, _| wire.send(&other).and_then(|()| silence(wire)))
        }),
        (
            "a READY of 8 EB",
            Mind::opened(|wire, _| {
                wire.send(&greeting())?;
                wire.send(&[&[6][..], &(1_u64 << 63).to_be_bytes()].concat())?;
                silence(wire)
            }),
        ),
        (
            "a READY byte by byte",
            Mind::opened(|wire, _| {
                wire.send(&greeting())?;
                for byte in ready(&[("Socket-Type", b"ROUTER")]) {
                    wire.send(&[byte])?;
                    thread::sleep(Duration::from_millis(500));
                }
                Ok(true)
            }),
        ),
        (
            "no word after the handshake",
            Mind::opened(|wire, _| wire.open_as_router().and_then(|()| silence(wire))),
        ),
    ]
}

fn bad_greetings() -> Vec<(&'static str, Mind)> {
    vec![
        (
            "garbage for a greeting",
            Mind::opened(|wire, _| {
                open(wire)?;
                wire.message(&[b"\xffgarbage", b""])?;
                silence(wire)
            }),
        ),
        (
            "an endless greeting",
            Mind::opened(|wire, _| {
                open(wire)?;
                loop {
                    wire.send(&[1, 0].repeat(1000))?;
                }
            }),
        ),
        (
            "a greeting with another uuid",
            Mind::opened(|wire, _| {
                open(wire)?;
                let other = json!({"palm": 1, "server": "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4"});
                wire.message(&[other.to_string().as_bytes(), b""])?;
                silence(wire)
            }),
        ),
        (
            "a greeting, and the end",
            Mind::opened(|wire, uuid| {
                greet(wire, uuid)?;
                Ok(false)
            }),
        ),
        (
            "a greeting, a giant, and the end",
            Mind::opened(|wire, uuid| {
                greet(wire, uuid)?;
                wire.send(&[&[2][..], &(40_u64 << 30).to_be_bytes()].concat())?;
                Ok(false)
            }),
        ),
        (
            "a greeting, and endless PINGs",
            Mind::opened(|wire, uuid| {
                greet(wire, uuid)?;
                loop {
                    wire.send(&frame(4, b"\x04PING\x00\x0acontext").repeat(1000))?;
                }
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
    bad_openings().into_iter().enumerate().map(start).collect()
}

fn are_not_sought(rogues: &[(&str, Rogue)]) {
    for (name, rogue) in rogues {
        let opened = rogue.opened();
        eprintln!("{name}: {opened} connections");
        assert!(
            opened < 100,
            "{name}: {opened} connections in a few seconds"
        );
    }
}

#[test]
fn no_handshake_harms_the_leader() {
    crate::heavy();
    let world = World::start();
    let rogues = start_all(&world, false);
    // A few rounds of probes.
    thread::sleep(Duration::from_secs(4));
    world.is_well("all openings at once");
    are_not_sought(&rogues);
}

#[test]
fn no_handshake_of_a_published_server_does_harm() {
    crate::heavy();
    let world = World::start();
    let rogues = start_all(&world, true);
    for (_, rogue) in &rogues {
        rogue.await_published(&world.etcd);
    }
    for (_, rogue) in &rogues {
        rogue.turn_bad();
    }
    let call = |(place, (name, _)): (usize, &(&'static str, Rogue))| {
        (*name, world.caller(&format!("rogue{place}.f"), false))
    };
    let callers: Vec<_> = rogues.iter().enumerate().map(call).collect();
    for (name, caller) in &callers {
        let (good, _) = caller.wait_for_line(|line| line.starts_with("good: "), SOON);
        assert_eq!(good, "good: ok 5", "{name}");
    }
    let mut all: Vec<_> = callers
        .iter()
        .map(|(name, caller)| (*name, caller))
        .collect();
    all.push(("the leader", &world.leader));
    stay_calm(&all);
    world.good_call();
    are_not_sought(&rogues);
}

/// The next candidate keeps a connection to the leader.
#[test]
fn a_leader_that_closes_every_connection_causes_no_load() {
    let etcd = Etcd::start();
    let rogue = Rogue::start(
        &etcd,
        "boss",
        Mind::opened(|wire, uuid| {
            greet(wire, uuid)?;
            Ok(false)
        }),
    );
    let lease = put_on_lease(&etcd, |lease| format!("/election/{lease}"), rogue.uuid());
    let follower = Process::builder(example("text"))
        .arg("run")
        .env("PALM_ETCD", etcd.endpoint())
        .start();
    follower.wait_for_line(|line| line.contains(" joined as "), SOON);
    eventually("it looks at its leader", SOON, || {
        (rogue.opened() > 3).then_some(())
    });
    thread::sleep(Duration::from_secs(2));
    stay_calm(&[("a leader that ends every connection", &follower)]);
    assert!(
        rogue.opened() < 100,
        "{} connections in a few seconds",
        rogue.opened()
    );
    etcd.etcdctl(&["lease", "revoke", &lease]);
    follower.wait_for_line(|line| line.contains(" configured"), SOON);
}
