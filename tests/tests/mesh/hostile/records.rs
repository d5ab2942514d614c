//! Hostile records, put by anyone with write access to `/servers/`.

use super::{
    SOON, World, harmless,
    rogue::{Mind, Rogue, put_record},
};
use palm_tests::eventually;
use serde_json::{Value, json};
use std::{net::TcpListener, thread, time::Duration};
use uuid::Uuid;

const OWNED: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\r\u{9b}31m\nINFO:registry:a line of its own";

fn record(uuid: &str, changes: &Value) -> String {
    let mut record = json!({
        "host": "127.0.0.1", "pid": 1, "when": "2026-01-01T00:00:00.000000", "leader": null, "server": "odd",
        "ports": [1], "kind": "registered", "functions": ["f"], "uuid": uuid, "configured": false,
    });
    for (name, value) in changes.as_object().into_iter().flatten() {
        record[name] = value.clone();
    }
    record.to_string()
}

fn bad_records() -> Vec<(&'static str, Value)> {
    vec![
        ("a name that steers terminals", json!({"server": OWNED})),
        ("a kind that steers terminals", json!({"kind": OWNED})),
        (
            "a host that steers terminals",
            json!({"host": OWNED.replace(['\n', '\r', '/'], "")}),
        ),
        (
            "a function that steers terminals",
            json!({"functions": ["f", OWNED]}),
        ),
        (
            "ten thousand functions",
            json!({"functions": (0..10_000).map(|n| format!("f{n}")).collect::<Vec<_>>()}),
        ),
        (
            "a host that does not exist",
            json!({"host": "no-such-host.invalid"}),
        ),
        ("a host that answers nobody", json!({"host": "192.0.2.1"})),
        ("a very long host", json!({"host": "h".repeat(100_000)})),
        ("a port where nobody listens", json!({"ports": [1]})),
        ("ten thousand ports", json!({"ports": vec![1; 10_000]})),
        (
            "a time of long ago",
            json!({"when": "-9999-01-01T00:00:00"}),
        ),
        (
            "said to be configured",
            json!({"configured": true, "leader": "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4"}),
        ),
        ("unknown fields", json!({"weight": {OWNED: OWNED}})),
        (
            "deeply nested unknown fields",
            json!({"x": serde_json::from_str::<Value>(&format!("{}{}", "[".repeat(120), "]".repeat(120))).unwrap()}),
        ),
    ]
}

#[test]
fn no_record_harms_the_leader_or_the_command_line() {
    crate::heavy();
    let world = World::start();
    for (name, changes) in bad_records() {
        let uuid = Uuid::new_v4().to_string();
        put_record(&world.etcd, &uuid, &record(&uuid, &changes));
        let (code, status) = world.cli(&["status"]);
        assert_eq!(code, Some(0), "{name}: {status:?}");
        harmless(&status);
        assert_eq!(world.cli(&["status", "--json"]).0, Some(0), "{name}");
    }
    for (key, value) in [
        (format!("/servers/{OWNED}"), "x".to_owned()),
        ("/servers/".to_owned(), "x".to_owned()),
        (format!("/servers/{}", Uuid::new_v4()), OWNED.to_owned()),
        (format!("/servers/{}", Uuid::new_v4()), "[".repeat(100_000)),
        (
            format!("/servers/{}", Uuid::new_v4()),
            format!(r#"{{"host":"{}"#, "ä".repeat(50_000)),
        ),
        (format!("/departed/{}", Uuid::new_v4()), OWNED.to_owned()),
        ("/pipelines/junk".to_owned(), OWNED.to_owned()),
        (format!("/pipelines/{OWNED}"), OWNED.to_owned()),
        ("/election/junk".to_owned(), OWNED.to_owned()),
    ] {
        world.etcd.etcdctl(&["put", "--", &key, &value]);
    }
    thread::sleep(Duration::from_secs(4));
    harmless(&world.leader.lines());
    assert!(
        !world
            .leader
            .lines()
            .iter()
            .any(|line| line.starts_with("INFO:registry:a line of its own"))
    );
    let (code, status) = world.cli(&["status"]);
    assert_eq!(code, Some(0), "{status:?}");
    harmless(&status);
    assert!(status.len() > bad_records().len(), "{status:?}");
    // A client that reads what is published by others than the leader.
    let (_, lines) = world.cli(&["call", "nobody.f", "x"]);
    harmless(&lines);
    world.is_well("all of them at once");
}

#[test]
fn a_tombstones_reason_cannot_control_the_terminal() {
    let world = World::start();
    let rogue = Rogue::published(&world.etcd, "goes", Mind::default());
    let note = json!({"why": "registry", "reason": OWNED, "when": "2026-01-01T00:00:00.000000"})
        .to_string();
    world
        .etcd
        .etcdctl(&["put", "--", &format!("/departed/{}", rogue.uuid()), &note]);
    world
        .etcd
        .etcdctl(&["del", &format!("/servers/{}", rogue.uuid())]);
    let told = format!("Deleted server {} because", rogue.uuid());
    world
        .leader
        .wait_for_line(|line| line.contains(&told), SOON);
    harmless(&world.leader.lines());
    world.is_well("a reason");
}

/// A thousand servers that do not answer cost the leader their probes, and delay no other server.
#[test]
fn a_thousand_mute_servers_delay_no_other() {
    crate::heavy();
    let world = World::start_with("1", "0.5");
    // The kernel accepts the connections, and no program takes them.
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = mute.local_addr().expect("an address").port();
    let lease = world.etcd.etcdctl(&["lease", "grant", "3600"]);
    let lease = lease.split_whitespace().nth(1).expect("a lease").to_owned();
    let puts = |records: &[(String, String)]| {
        let lines: Vec<_> = records
            .iter()
            .map(|(uuid, record)| format!("put --lease={lease} /servers/{uuid} {record:?}"))
            .collect();
        let script = format!("\n{}\n\n\n", lines.join("\n"));
        let transact = palm_tests::Process::builder("sh")
            .args(["-c", "printf '%s' \"$SCRIPT\" | etcdctl txn"])
            .env("SCRIPT", script)
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", world.etcd.endpoint())
            .start();
        assert!(transact.wait(SOON).success(), "{:?}", transact.lines());
    };
    let records: Vec<_> = (0..1000)
        .map(|_| {
            let uuid = Uuid::new_v4().to_string();
            let record = record(&uuid, &json!({"ports": [port]}));
            (uuid, record)
        })
        .collect();
    records.chunks(100).for_each(puts);
    let joined = palm_tests::Process::builder(palm_tests::example("printf"))
        .arg("run")
        .env("PALM_ETCD", world.etcd.endpoint())
        .start();
    eventually("who joins can be called", SOON, || {
        (world.cli(&["call", "printf.printf", "hello"]).1 == ["hello"]).then_some(())
    });
    world.good_call();
    assert!(world.leader.is_running() && joined.is_running());
}
