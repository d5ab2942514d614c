//! What a server in Python answers is what one in Rust answers: the same checks are put to both.

use super::{program, start};
use crate::common::{Mesh, QUICK};
use palm_tests::{
    Etcd, Process, binary, eventually, in_repository, python,
    wire::{Wire, frame},
};
use serde_json::Value;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);

/// A client that sees the server `zoo`.
fn client_of_zoo(mesh: &Mesh) -> palm_peer::Client {
    let client =
        futures::executor::block_on(palm_peer::Client::connect(mesh.options())).expect("a client");
    eventually("the client sees it", SOON, || {
        client
            .reachable()
            .iter()
            .any(|r| r.server == "zoo")
            .then_some(())
    });
    client
}

#[test]
fn a_python_server_is_configured_published_and_probed() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/zoo", &QUICK);
    let leader = mesh.start("printf");
    mesh.await_published(&[&leader.uuid]);
    let server = start(&mesh, &python, &etcd.endpoint());

    let record = mesh.state()[&format!("/servers/{}", server.uuid)]
        .value
        .clone();
    let Value::Object(fields) = serde_json::from_str(&record).unwrap() else {
        panic!("{record}")
    };
    let order = [
        "host",
        "pid",
        "when",
        "leader",
        "server",
        "ports",
        "kind",
        "functions",
        "uuid",
        "configured",
    ];
    assert!(fields.keys().eq(order), "{record}");
    assert_eq!(fields["leader"], leader.uuid.as_str());
    assert_eq!(fields["pid"], server.pid());

    let shown = Process::builder(binary("palm-cli"))
        .args(["--etcd", &etcd.endpoint(), "--prefix", "/zoo", "status"])
        .start();
    assert!(shown.wait(SOON).success());
    let lines = shown.lines();
    let line = lines
        .iter()
        .find(|line| line.starts_with(&server.uuid))
        .expect("a line of its own");
    assert!(
        line.contains(" pytext ")
            && line.contains(" configured ")
            && line.contains("reverse,double,_ping"),
        "{line}"
    );

    // It has no metrics, which is no failure.
    let shown = Process::builder(binary("palm-cli"))
        .args(["--etcd", &etcd.endpoint(), "--prefix", "/zoo", "metrics"])
        .start();
    assert!(shown.wait(SOON).success());
    let lines = shown.lines();
    let uuid = format!("uuid=\"{}\"", server.uuid);
    let lines: Vec<_> = lines.iter().filter(|line| line.contains(&uuid)).collect();
    let [line] = lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        line.starts_with("palm_server_answered{") && line.ends_with("} 1"),
        "{line}"
    );

    // The leader asks for its log, round after round.
    let digest = format!("{}/pytext/registered : b'", server.uuid);
    let (line, _) = leader.wait_for_line(|line| line.contains(&digest) && line.contains('I'), SOON);
    let mark = leader.mark();
    leader.wait_for_line_after(mark, |line| line.contains(&digest), SOON);
    assert!(
        line.split_once("b'")
            .unwrap()
            .1
            .trim_end_matches('\'')
            .split(',')
            .all(|entry| "ID".contains(entry)),
        "{line}"
    );
    assert!(
        server.lines_with("WARNING").is_empty(),
        "{:?}",
        server.lines()
    );
}

fn passes(check: &str) {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    // This mesh has no leader: a server answers without being configured.
    let mesh = Mesh::new(&etcd, "", &[]);
    let server = mesh.start_program(program(
        &python,
        "tests/tests/mesh/python/zoo.py",
        &etcd.endpoint(),
    ));
    let checks = in_repository("tests/tests/mesh/python/checks.py")
        .display()
        .to_string();
    let checking = Process::builder(&python)
        .args(["-B", checks.as_str(), check, &server.endpoint, &server.uuid])
        .env("PYTHONPATH", in_repository("examples/python"))
        .start();
    assert!(checking.wait(PATIENCE).success(), "{check} in checks.py");
}

#[test]
fn the_simplest_client_is_answered() {
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
fn a_greeting_is_answered() {
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
fn malformed_requests_do_not_end_a_python_server() {
    passes("nonsense");
}

#[test]
fn python_and_rust_select_the_same_instances() {
    let Some(python) = python() else { return };
    // The numbers of docs/protocol.md; palm-peer has a test of its own with them.
    let (client, instance) = (
        "0b7c4f5e-7f64-4d0c-9c3b-5d6f1f0e8a11",
        "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4",
    );
    let line =
        format!("from stage import relay; print(hex(relay.rendezvous('{client}', '{instance}')))");
    let asked = Process::builder(&python)
        .args(["-B", "-c", &line])
        .env("PYTHONPATH", in_repository("examples/python"))
        .start();
    assert!(asked.wait(SOON).success(), "{:?}", asked.lines());
    let weight = asked.lines().remove(0);
    assert_eq!(weight, "0x219cd5d60deaec57");
    let document = std::fs::read_to_string(in_repository("docs/protocol.md")).unwrap();
    assert!(
        [client, instance, &weight]
            .iter()
            .all(|text| document.contains(*text))
    );
}

#[test]
fn functions_run_concurrently_and_probes_are_answered() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "", &QUICK);
    let leader = mesh.start("printf");
    let server = mesh.start_program(program(
        &python,
        "tests/tests/mesh/python/zoo.py",
        &etcd.endpoint(),
    ));
    mesh.await_published(&[&leader.uuid, &server.uuid]);
    let client = client_of_zoo(&mesh);
    // Longer than three probes that are missed may take.
    let slow = (0..8).map(|_| client.call("zoo.slow", "8000").timeout(SOON).into_future());
    let answers = futures::executor::block_on(futures::future::join_all(slow));
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_ref().is_ok_and(|answer| answer == "8000")),
        "{answers:?}"
    );
    assert!(mesh.is_registered(&server.uuid));
    assert!(leader.lines_with("does not answer").is_empty());
}

#[test]
fn a_blocked_python_server_answers_pings() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    // Probes that outlast it: the call is what matters here.
    let mesh = Mesh::new(
        &etcd,
        "",
        &["--probe-period", "30", "--probe-timeout", "20"],
    );
    let leader = mesh.start("printf");
    let zoo =
        program(&python, "tests/tests/mesh/python/zoo.py", &etcd.endpoint()).args(["--ttl", "60"]);
    let server = mesh.start_program(zoo);
    mesh.await_published(&[&leader.uuid, &server.uuid]);
    let client = client_of_zoo(&mesh);
    let (call, ping) = std::thread::scope(|scope| {
        // Longer than a PING may take to be answered: no thread of Python runs meanwhile.
        let call = scope.spawn(|| {
            let call = client.call("zoo.hog", "6000").timeout(PATIENCE);
            futures::executor::block_on(call.into_future())
        });
        let ping = scope.spawn(|| {
            let address = server
                .endpoint
                .trim_start_matches("tcp://")
                .parse()
                .expect("an address");
            let mut wire = Wire::dealer(address).expect("a connection");
            let asked = Instant::now();
            // With a time to live of 10 s, and a context that comes back.
            wire.send(&frame(4, b"\x04PING\x00\x64here")).expect("sent");
            (wire.frame().expect("a PONG"), asked.elapsed())
        });
        (
            call.join().expect("no panic"),
            ping.join().expect("no panic"),
        )
    });
    assert_eq!(call.expect("the server is busy, and not gone"), "6000");
    assert_eq!(ping.0, (4, b"\x04PONGhere".to_vec()));
    assert!(
        ping.1 < Duration::from_secs(2),
        "the PONG took {:?}",
        ping.1
    );
}
