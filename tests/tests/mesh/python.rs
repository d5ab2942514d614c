//! Servers speak with libzmq, and the example in Python needs no more than `docs/protocol.md`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{net::TcpListener, path::PathBuf, time::Duration};

use crate::in_process::{InProcess, SOON, echo, settings};
use palm_peer::{Bytes, Config, FunctionError, Message, Server};
use palm_tests::{Etcd, Process, ProcessBuilder, eventually, free_port, in_repository, python};

const PATIENCE: Duration = Duration::from_secs(120);

/// A call of the example.
fn example(python: &PathBuf, etcd: &Etcd, args: &[&str]) -> Process {
    Process::builder(python)
        .arg(in_repository("examples/python/call.py"))
        .args(args)
        .env("PALM_ETCD", etcd.endpoint())
        .start()
}

async fn slow(message: Message) -> Result<Bytes, FunctionError> {
    let time: u64 = std::str::from_utf8(message.payload())?.parse()?;
    async_std::task::sleep(Duration::from_millis(time)).await;
    Ok(message.into_payload())
}

fn zoo(settings: Config) -> InProcess {
    let fails = async |_: Message| -> Result<Bytes, FunctionError> { Err("no such luck".into()) };
    let server = Server::new("zoo")
        .function("echo", echo)
        .function("fails", fails)
        .function("slow", slow);
    InProcess::start(server, settings)
}

fn checks(python: &PathBuf, check: &str, server: &InProcess) -> ProcessBuilder {
    let uuid = server.peer.uuid().to_string();
    let args = [
        "-B",
        in_repository("tests/tests/mesh/python/checks.py")
            .to_str()
            .unwrap(),
        check,
        server.peer.endpoint(),
        &uuid,
    ]
    .map(ToOwned::to_owned);
    Process::builder(python)
        .args(args)
        .env("PYTHONPATH", in_repository("examples/python"))
}

fn passes(check: &str) {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let server = zoo(settings(&etcd));
    let process = checks(&python, check, &server).start();
    assert!(process.wait(PATIENCE).success(), "{check} in checks.py");
}

#[test]
fn the_simplest_client_is_one_send_multipart() {
    passes("simplest");
}

#[test]
fn a_dealer_gets_results_and_errors() {
    passes("dealer");
}

#[test]
fn a_req_gets_results_and_errors() {
    passes("req");
}

#[test]
fn a_greeting_proves_the_uuid() {
    passes("hello");
}

#[test]
fn payloads_of_64_mib_pass_both_ways() {
    passes("big");
}

#[test]
fn thousands_of_calls_may_be_in_flight() {
    passes("many");
}

#[test]
fn a_libzmq_connection_survives_a_server_restart() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let settings = settings(&etcd).port(free_port());
    let mut server = zoo(settings.clone());
    let process = checks(&python, "returns", &server).start();
    process.wait_for_line(|line| line == "ready", SOON);
    server.leave();
    server.ended().unwrap();
    // The socket closes in the background.
    eventually("the port is free", SOON, || {
        TcpListener::bind(("127.0.0.1", settings.port)).ok()
    });
    let _server = zoo(settings);
    assert!(process.wait(PATIENCE).success(), "returns in checks.py");
}

#[test]
fn the_example_finds_servers_through_etcd_and_calls_them() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let mesh = settings(&etcd).prefix("/staging".into());
    let server = zoo(mesh);
    let by_uuid = format!("{}.echo", server.peer.uuid());
    let endpoint = ["--endpoint", server.peer.endpoint()];
    let prefix = ["--prefix", "/staging"];
    for (how, target) in [
        ([&prefix[..], &[]].concat(), "zoo.echo"),
        ([&prefix[..], &["--req"]].concat(), "zoo.echo"),
        ([&prefix[..], &[]].concat(), by_uuid.as_str()),
        ([&endpoint[..], &[]].concat(), "zoo.echo"),
        ([&endpoint[..], &["--req"]].concat(), "zoo.echo"),
    ] {
        let called = example(
            &python,
            &etcd,
            &[&how[..], &[target, "Hello, world"]].concat(),
        );
        assert!(called.wait(SOON).success(), "{how:?}");
        assert_eq!(called.lines(), ["Hello, world"], "{how:?}");
    }
    for (args, words) in [
        (
            ["zoo.roar", ""],
            "no_such_function: zoo has no function roar, only echo, fails, slow, _ping",
        ),
        (
            ["park.echo", ""],
            "no_such_server: no server park can be reached: the published ones are zoo",
        ),
        (["zoo.fails", ""], "failed: no such luck"),
        (
            ["zoo.get", "--cache=k"],
            "no_such_key: nothing is stored under \"k\"",
        ),
        (["zoo.slow", "--timeout=20.5"], "failed: "),
    ] {
        let called = example(&python, &etcd, &[&prefix[..], &args[..]].concat());
        assert_eq!(called.wait(SOON).code(), Some(1), "{args:?}");
        assert!(
            called.lines().len() == 1 && called.lines()[0].starts_with(words),
            "{args:?}: {:?}",
            called.lines()
        );
    }
    let called = example(&python, &etcd, &["zoo.echo"]);
    assert_eq!(called.wait(SOON).code(), Some(1));
    assert_eq!(
        called.lines(),
        ["no_such_server: no server zoo can be reached: no server is published"],
        "another prefix is another mesh"
    );
}
