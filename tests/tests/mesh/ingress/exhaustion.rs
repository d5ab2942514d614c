//! Exhaustion of connections, descriptors and threads.

use super::Server;
use palm_tests::{eventually, wire::Wire};
use std::{
    fs, thread,
    time::{Duration, Instant},
};

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    crate::heavy();
    let server = Server::start(&[]);
    let round = |count: usize| {
        thread::scope(|scope| {
            for part in 0..4 {
                let server = &server;
                scope.spawn(move || {
                    for n in 0..count / 4 {
                        // Some come in, some leave before, some ask. Most wait for the server,
                        // which would reach its limit of connections from one address if they came
                        // faster than it clears up.
                        match (part + n) % 4 {
                            0 => Wire::connect(server.address).expect("a connection").close(),
                            1 => Wire::dealer(server.address).expect("a connection").close(),
                            2 => drop(Wire::dealer(server.address).expect("a connection")),
                            _ => server.good_call(),
                        }
                    }
                });
            }
        });
        server.calm_down();
    };
    // The same once before: the most connections that are open at once cost memory that stays.
    round(10_000);
    let before = server.resource_usage();
    round(10_000);
    server.resource_usage().assert_at_most(&before, 0);
    server.good_call();
}

#[test]
fn connections_are_limited_and_closed_ones_free_a_slot() {
    let server = Server::start(&[
        ("PALM_MAX_CONNECTIONS", "20"),
        ("PALM_MAX_PER_ADDRESS", "10"),
    ]);
    let mut held = Vec::new();
    while let Ok(wire) = Wire::dealer(server.address) {
        held.push(wire);
        assert!(held.len() <= 10, "more than ten from one address");
    }
    held.pop();
    eventually("one that left made room", Duration::from_secs(10), || {
        super::call(server.address).ok()
    });
    drop(held);
    server.calm_down();
    assert!(server.refused("too_many_from_address") > 0);
}

/// The clock ticks that the process has computed for.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .expect("a name")
        .1
        .split_whitespace()
        .collect();
    fields[11..13]
        .iter()
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum()
}

#[test]
fn an_ingress_without_descriptors_waits_without_spinning() {
    crate::heavy();
    let server = Server::with_descriptors(128);
    // More than fit, and all of them silent to the end.
    let mut held: Vec<Wire> = (0..300)
        .map(|_| Wire::connect(server.address).expect("queued at least"))
        .collect();
    eventually("accepting pauses", Duration::from_secs(10), || {
        server
            .process
            .lines()
            .iter()
            .any(|line| line.contains("no connection is accepted for now"))
            .then_some(())
    });
    let (start, before) = (Instant::now(), ticks(server.process.pid()));
    thread::sleep(Duration::from_secs(2));
    let spent = ticks(server.process.pid()) - before;
    // A hundred ticks a second are a core.
    assert!(
        spent * 10 < 200 * start.elapsed().as_secs().max(1),
        "{spent} ticks spent on waiting"
    );
    assert!(server.process.is_running());
    held.clear();
    server.good_call();
    server.calm_down();

    // More than fit, and all of them well-behaved: those that are in stay, the others wait.
    let mut busy = Vec::new();
    thread::scope(|scope| {
        let strangers: Vec<_> = (0..100)
            .map(|_| scope.spawn(|| Wire::dealer(server.address)))
            .collect();
        for stranger in strangers {
            busy.extend(stranger.join().expect("no panic"));
        }
    });
    assert!(!busy.is_empty());
    let mut answered = 0;
    for wire in &mut busy {
        answered += usize::from(super::shout(wire).is_ok());
    }
    assert!(
        answered > 10,
        "{answered} of those that are in are answered"
    );
    busy.clear();
    server.good_call();
}
