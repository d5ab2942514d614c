//! Servers that have few file descriptors, and those that have too few.

use super::{SOON, Server, call};
use palm_tests::{Etcd, Process, eventually, example, free_port};
use std::{
    fs, io,
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

const MIB: u64 = 1024 * 1024;

/// The most that a server may hold that cannot take anybody in.
const MAX_RESIDENT: u64 = 100 * MIB;

/// Connects, unless even the system's queue is full.
fn knock(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&address, Duration::from_millis(100))
}

#[test]
fn a_server_with_too_few_descriptors_does_not_start_and_says_what_it_needs() {
    let program = example("text");
    for limit in ["20", "32"] {
        let line = format!("ulimit -n {limit} && exec {} run --etcd http://127.0.0.1:1", program.display());
        let process = Process::start("/bin/sh", ["-c", &line]);
        let status = process.wait(SOON);
        let said = process.lines().join("\n");
        assert!(matches!(status.code(), Some(1 | 2)), "{status}: {said}");
        for word in [&format!("may have {limit} file descriptors"), "48 more", "LimitNOFILE=", "ulimit -n"] {
            assert!(said.contains(word), "{word} is not in:\n{said}");
        }
    }
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    let port = free_port().to_string();
    let etcd = Etcd::start();
    let line =
        format!("ulimit -S -n 40 && exec {} run --port {port} --etcd {}", example("text").display(), etcd.endpoint());
    let server = Server::of("text", Process::start("/bin/sh", ["-c", &line]), etcd, &port);
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.process.pid())).expect("limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit of files");
    let numbers: Vec<&str> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{files}");
}

#[test]
fn a_leader_with_fewer_descriptors_than_servers_does_not_grow() {
    let _heavy = crate::heavy();
    let leader = Server::with_descriptors(64);
    let endpoint = leader.etcd();
    let servers: Vec<Process> =
        (0..60).map(|_| Process::start(example("text"), ["run", "--port", "0", "--etcd", &endpoint])).collect();
    for server in &servers {
        server.wait_for_line(|line| line.contains("joined as"), 6 * SOON);
    }
    let clients = thread::spawn({
        let address = leader.address;
        move || {
            let end = Instant::now() + Duration::from_secs(10);
            while Instant::now() < end {
                // Most wait in the system's queue, and give up.
                drop((0..20).map(|_| knock(address)).collect::<Vec<_>>());
            }
        }
    });
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        assert!(leader.process.is_running());
        assert!(leader.process.resident() < MAX_RESIDENT, "{} MiB", leader.process.resident() / MIB);
        thread::sleep(Duration::from_millis(100));
    }
    clients.join().expect("no panic");
    drop(servers);
    eventually("the leader takes calls again", 3 * SOON, || call(leader.address).ok());
}
