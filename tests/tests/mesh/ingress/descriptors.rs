//! Servers with few, and with too few, file descriptors.

use super::{SOON, Server, call, failures::limit_files};
use crate::common::await_joined;
use palm_tests::{Etcd, Process, eventually, example, free_port, wire::Wire};
use std::{
    fs, io,
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

const MIB: u64 = 1024 * 1024;

/// The most that a server may hold that cannot take anybody in.
const MAX_RESIDENT: u64 = 100 * MIB;

/// A leader has a round every second.
const PROBES: [(&str, &str); 2] = [("PALM_PROBE_PERIOD", "1"), ("PALM_PROBE_TIMEOUT", "1")];

/// Watches over a process that has no descriptors left: neither its memory grows nor does it spin.
fn stays_calm(process: &Process, time: Duration) {
    let (start, before) = (Instant::now(), process.processor_time());
    while start.elapsed() < time {
        assert!(process.is_running());
        assert!(
            process.resident() < MAX_RESIDENT,
            "{} MiB",
            process.resident() / MIB
        );
        thread::sleep(Duration::from_millis(100));
    }
    let spent = process.processor_time().saturating_sub(before);
    assert!(
        spent < start.elapsed() / 2,
        "{spent:?} of processor time in {:?}",
        start.elapsed()
    );
}

/// Connects, unless even the system's queue is full.
fn knock(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&address, Duration::from_millis(100))
}

/// How many servers a leader has configured, by its log.
fn configured_by(leader: &Server) -> usize {
    let lines = leader.process.lines();
    let configured = lines.iter().filter(|line| line.ends_with(" configured"));
    configured.count()
}

#[test]
fn connection_churn_with_few_descriptors_is_harmless() {
    crate::heavy();
    let server = Server::with_descriptors(64);
    let mut held: Vec<Wire> = (0..60)
        .map(|_| Wire::connect(server.address).expect("queued at least"))
        .collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            // Most are never let in: they wait in the system's queue until they go.
            scope.spawn(|| (0..50).for_each(|_| drop(knock(server.address))));
        }
        stays_calm(&server.process, Duration::from_secs(4));
    });
    held.clear();
    server.good_call();
    server.calm_down();

    // Well-behaved ones, that stay: the first are answered, the others wait.
    let mut busy = Vec::new();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..30)
            .map(|_| scope.spawn(|| Wire::dealer(server.address)))
            .collect();
        stays_calm(&server.process, Duration::from_secs(4));
        for client in clients {
            busy.extend(client.join().expect("no panic"));
        }
    });
    assert!(!busy.is_empty(), "nobody was let in");
    drop(busy);
    server.good_call();
}

#[test]
fn a_server_with_too_few_descriptors_says_what_it_needs() {
    let program = example("text");
    for limit in ["20", "32"] {
        let line = format!(
            "ulimit -n {limit} && exec {} run --etcd http://127.0.0.1:1",
            program.display()
        );
        let process = Process::start("/bin/sh", ["-c", &line]);
        let status = process.wait(SOON);
        let said = process.lines().join("\n");
        assert!(matches!(status.code(), Some(1 | 2)), "{status}: {said}");
        for word in [
            &format!("may have {limit} file descriptors"),
            "48 more",
            "LimitNOFILE=",
            "ulimit -n",
        ] {
            assert!(said.contains(word), "{word} is not in:\n{said}");
        }
    }
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    let port = free_port().to_string();
    let etcd = Etcd::start();
    let line = format!(
        "ulimit -S -n 40 && exec {} run --port {port} --etcd {}",
        example("text").display(),
        etcd.endpoint()
    );
    let server = Server::of(
        "text",
        Process::start("/bin/sh", ["-c", &line]),
        etcd,
        &port,
    );
    let limits =
        fs::read_to_string(format!("/proc/{}/limits", server.process.pid())).expect("limits");
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a limit of files");
    let numbers: Vec<&str> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{files}");
}

fn uuid(process: &Process) -> String {
    // Sixty start at once.
    process.wait_for_line(|line| line.contains(" joined as "), 3 * SOON);
    let [uuid, _] = await_joined(process);
    uuid
}

#[test]
fn a_leader_with_fewer_descriptors_than_servers_serves_them_all() {
    crate::heavy();
    let leader = Server::with_descriptors_and(64, &PROBES);
    let endpoint = leader.etcd();
    let start = || Process::start(example("text"), ["run", "--port", "0", "--etcd", &endpoint]);
    let mut servers: Vec<Process> = (0..60).map(|_| start()).collect();
    let configured = || configured_by(&leader);
    // Itself is one of them.
    eventually("all are configured", 6 * SOON, || {
        (configured() >= 61).then_some(())
    });
    let end = AtomicBool::new(false);
    let limit = Instant::now() + 6 * SOON;
    // Of more than twenty servers, a round is one line.
    let rounds = || {
        leader
            .process
            .lines()
            .iter()
            .filter(|line| line.contains(" servers remaining, "))
            .count()
    };
    let before = rounds();
    thread::scope(|scope| {
        scope.spawn(|| {
            // A failure of what follows is not reported here.
            while !end.load(Ordering::Relaxed) && Instant::now() < limit {
                drop((0..20).map(|_| knock(leader.address)).collect::<Vec<_>>());
            }
        });
        while rounds() < before + 8 {
            assert!(
                Instant::now() < limit,
                "{} of 8 rounds: {:#?}",
                rounds() - before,
                leader.process.lines()
            );
            // A flood, and sixty probes a second, are work, be it no endless one; so its processor
            // time says nothing.
            assert!(leader.process.is_running());
            assert!(
                leader.process.resident() < MAX_RESIDENT,
                "{} MiB",
                leader.process.resident() / MIB
            );
            thread::sleep(Duration::from_millis(100));
        }
        // Who comes meanwhile is configured, and published.
        servers.push(start());
        let newcomer = format!(
            "Server {} configured",
            uuid(servers.last().expect("a server"))
        );
        leader
            .process
            .wait_for_line(|line| line.ends_with(&newcomer), 3 * SOON);
        end.store(true, Ordering::Relaxed);
    });
    let lines = leader.process.lines();
    let of = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
    // No server is removed for what the leader lacks. Its own port is flooded, so no new
    // connection may get in.
    let own = uuid(&leader.process);
    let removed: Vec<_> = lines
        .iter()
        .filter(|l| l.contains("Deleted server") && !l.contains(&own))
        .collect();
    assert!(removed.is_empty(), "{removed:#?}");
    assert_eq!(
        (of("Too many open files"), of("lease was lost")),
        (0, 0),
        "{lines:#?}"
    );
    assert_eq!(of("leading the mesh"), 1, "{lines:#?}");
    assert!(of("could not be probed") <= 3, "{lines:#?}");

    // One that dies is found out all the same, and only that one is.
    let dead = servers.pop().expect("a server");
    dead.kill();
    let deleted = format!("Deleted server {} because", uuid(&dead));
    leader
        .process
        .wait_for_line(|line| line.contains(&deleted), 3 * SOON);
    drop(servers);
    eventually("the leader takes calls again", 3 * SOON, || {
        call(leader.address).ok()
    });
}

#[test]
fn a_leader_without_descriptors_removes_no_server() {
    let leader = Server::start(&PROBES);
    let endpoint = leader.etcd();
    let servers = [(); 3]
        .map(|()| Process::start(example("text"), ["run", "--port", "0", "--etcd", &endpoint]));
    let configured = || configured_by(&leader);
    eventually("all are configured", SOON, || {
        (configured() >= 4).then_some(())
    });
    let rounds = || {
        leader
            .process
            .lines()
            .iter()
            .filter(|line| line.contains("probing all of them"))
            .count()
    };
    let before = limit_files(&leader.process, Some(3));
    let (round, lines) = (rounds(), leader.process.lines().len());
    // So many that each server's turn of a new connection comes twice.
    eventually("the leader goes on", 3 * SOON, || {
        (rounds() >= round + 12).then_some(())
    });
    // Of a newcomer it knows that it cannot reach it, and says whose fault that is.
    let newcomer = Process::start(example("text"), ["run", "--port", "0", "--etcd", &endpoint]);
    leader.process.wait_for_line(
        |line| {
            line.contains("could not be probed")
                && line.contains("because of a local error of this leader")
        },
        SOON,
    );
    assert_eq!(configured(), 4);
    limit_files(&leader.process, before.current);
    eventually("the newcomer is configured", 2 * SOON, || {
        (configured() >= 5).then_some(())
    });
    let said = leader.process.lines().split_off(lines);
    let of = |words: &str| said.iter().filter(|line| line.contains(words)).count();
    assert_eq!(
        (
            of("Deleted server"),
            of("missed probe"),
            of("lease was lost")
        ),
        (0, 0, 0),
        "{said:#?}"
    );
    assert!(of("could not be probed") <= 2, "{said:#?}");
    assert!(servers.iter().chain([&newcomer]).all(Process::is_running));
}
