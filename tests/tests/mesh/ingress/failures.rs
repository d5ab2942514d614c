//! Failed connections are visible: each reason has its counter, and an internal error its warning.
//! The leader notices, and the server recovers.

use super::{SOON, Server, call};
use crate::common::await_joined;
use palm_tests::{
    Process, eventually, example, free_port,
    wire::{Wire, greeting, ready},
};
use rustix::{
    net::{Shutdown, shutdown},
    process::{
        Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, pidfd_getfd, pidfd_open, prlimit,
    },
};
use std::{fs, io::Read as _, os::fd::OwnedFd};

#[test]
fn early_disconnects_are_counted_and_not_logged() {
    let server = Server::start(&[]);
    for _ in 0..10 {
        drop(Wire::connect(server.address).expect("a connection"));
        let mut torn = Wire::connect(server.address).expect("a connection");
        torn.send(&greeting()[..40])
            .expect("half a greeting is taken");
    }
    eventually("all are counted", SOON, || {
        (server.refused("closed_early") >= 20).then_some(())
    });
    let lines = server.process.lines();
    assert!(
        !lines.iter().any(|line| line.contains("closed_early")),
        "{lines:?}"
    );
}

fn pid(process: &Process) -> Pid {
    Pid::from_raw(i32::try_from(process.pid()).expect("a pid")).expect("a pid")
}

/// The Unix socket that the process listens at, as a descriptor of this process; `None` where that
/// is not permitted.
fn inner_socket(process: &Process) -> Option<OwnedFd> {
    let proc = format!("/proc/{}", process.pid());
    let sockets = fs::read_to_string(format!("{proc}/net/unix")).expect("its sockets");
    let listening = sockets
        .lines()
        .find(|line| line.contains("palm-ingress-") && line.contains(" 00010000 "));
    let inode = listening
        .expect("an inner socket")
        .split_whitespace()
        .nth(6)
        .expect("its inode");
    let is_it = |link: &fs::DirEntry| {
        fs::read_link(link.path())
            .is_ok_and(|target| target.to_str() == Some(&format!("socket:[{inode}]")))
    };
    let files = fs::read_dir(format!("{proc}/fd")).expect("its files");
    let file = files.flatten().find(is_it)?;
    let number = file
        .file_name()
        .to_str()
        .and_then(|name| name.parse().ok())
        .expect("a number");
    let pidfd = pidfd_open(pid(process), PidfdFlags::empty()).ok()?;
    pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()).ok()
}

#[test]
fn a_broken_inner_socket_is_logged_and_opened_again() {
    let server = Server::start(&[]);
    let mut held = Wire::dealer(server.address).expect("a connection from before");
    for round in 1..=2 {
        let Some(socket) = inner_socket(&server.process) else {
            println!("SKIPPED: descriptors of other processes cannot be had here");
            return;
        };
        shutdown(&socket, Shutdown::Both).expect("it listens no more");
        let answered = (0..10).filter(|_| call(server.address).is_ok()).count();
        assert_eq!(answered, 10, "of 10 new connections, in round {round}");
    }
    super::shout(&mut held).expect("the old connection is still served");
    let lines = server.process.lines();
    let said: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("the inner socket does not work any more"))
        .collect();
    assert_eq!(said.len(), 1, "once a minute: {lines:#?}");
    assert_eq!(server.refused("internal"), 0);
}

/// Has the process open no more files, or as many as before.
pub(super) fn limit_files(process: &Process, soft: Option<u64>) -> Rlimit {
    let before = prlimit(
        Some(pid(process)),
        Resource::Nofile,
        Rlimit {
            current: soft,
            maximum: hard_limit(process),
        },
    );
    before.expect("a limit that may be set")
}

fn hard_limit(process: &Process) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid())).expect("its limits");
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a limit of files");
    files
        .split_whitespace()
        .nth(4)
        .and_then(|number| number.parse().ok())
}

#[test]
fn a_server_without_descriptors_is_noticed_and_recovers() {
    let env = [("PALM_PROBE_PERIOD", "1"), ("PALM_PROBE_TIMEOUT", "1")];
    let leader = Server::start(&env);
    let port = free_port().to_string();
    let endpoint = leader.etcd();
    let process =
        Process::builder(example("text")).args(["run", "--port", &port, "--etcd", &endpoint]);
    let process = process.start();
    let [uuid, _] = await_joined(&process);
    let configured = format!("Server {uuid} configured");
    leader
        .process
        .wait_for_line(|line| line.ends_with(&configured), SOON);

    let address = format!("127.0.0.1:{port}").parse().expect("an address");
    let mut held = Wire::dealer(address).expect("a connection from before");
    // Its socket behind the ingress is only opened after its handshake.
    super::shout(&mut held).expect("an answer");
    let mut half = Wire::connect(address).expect("a connection");
    half.send(&greeting()).expect("sent");
    half.stream()
        .read_exact(&mut [0; 64])
        .expect("it was accepted");
    // It may be noticed, and register again, as soon as this.
    let mark = leader.process.mark();
    let before = limit_files(&process, Some(3));
    let used = process.processor_time();
    half.send(&ready(&[("Socket-Type", b"DEALER")]))
        .expect("the rest of its handshake");
    half.until_end().expect("the server cannot serve it");
    process.wait_for_line(
        |line| {
            line.contains("WARNING")
                && line.contains("(descriptors)")
                && line.contains("LimitNOFILE=")
        },
        SOON,
    );
    // Meanwhile the admitted connections are served, and the others wait.
    super::shout(&mut held).expect("an answer");
    let _waits = Wire::connect(address).expect("the system accepts it");
    let gone = format!("Deleted server {uuid} because it does not answer");
    leader
        .process
        .wait_for_line_after(mark, |line| line.ends_with(&gone), 3 * SOON);
    super::shout(&mut held).expect("an answer");
    assert!(
        process.processor_time().saturating_sub(used) < 2 * SOON / 10,
        "it spins"
    );

    limit_files(&process, before.current);
    leader
        .process
        .wait_for_line_after(mark, |line| line.ends_with(&configured), 3 * SOON);
    eventually("new connections are let in", SOON, || call(address).ok());
    held.message(&[br#"{"palm":1,"pipeline":["text._ping"]}"#])
        .expect("sent");
    let ping = String::from_utf8(held.answer().expect("an answer").remove(1)).expect("JSON");
    assert_eq!(super::number(&ping, "descriptors"), 1, "{ping}");
    let lines = process.lines();
    assert!(
        lines
            .iter()
            .filter(|line| line.contains("descriptors"))
            .count()
            <= 4,
        "{lines:#?}"
    );
}
