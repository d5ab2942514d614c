//! Whatever stands under `/servers/`, the leader says once what is wrong with it, and goes on.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::Write as _,
    net::TcpListener,
    process::{Command, Stdio},
};

use crate::common::await_joined;
use crate::in_process::{SOON, call, client, sees, settings};
use palm_tests::{Etcd, Mark, Process, eventually, example};
use serde_json::{Value, json};

const UUID: &str = "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4";

/// A leader with a real process of its own, since what it logs is to be read.
fn printf(etcd: &Etcd) -> (Process, String) {
    let args = [
        "run",
        "--etcd",
        &etcd.endpoint(),
        "--probe-period",
        "0.5",
        "--probe-timeout",
        "0.3",
    ];
    let process = Process::start(example("printf"), args);
    let [uuid, _] = await_joined(&process);
    (process, uuid)
}

fn configured(leader: &Process, uuid: &str) {
    leader.wait_for_line(
        |line| line == format!("INFO:registry:Server {uuid} configured"),
        SOON,
    );
}

/// The record of a server that does not exist, but for these fields.
fn record(changes: Value) -> String {
    let mut record = json!({
        "host": "127.0.0.1", "pid": 4749, "when": "2016-02-16T11:28:59.088608", "leader": null, "server": "ghost",
        "ports": [refusing_port()], "kind": "registered", "functions": ["haunt"], "uuid": UUID, "configured": false
    });
    let Value::Object(changes) = changes else {
        panic!("an object")
    };
    record.as_object_mut().unwrap().extend(changes);
    record.to_string()
}

/// A port at which nothing listens.
fn refusing_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Puts a value of any length: it goes in by stdin.
fn put(etcd: &Etcd, key: &str, value: &[u8]) {
    let mut etcdctl = Command::new("etcdctl")
        .args(["put", key])
        .env("ETCDCTL_API", "3")
        .env("ETCDCTL_ENDPOINTS", etcd.endpoint())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    etcdctl.stdin.take().unwrap().write_all(value).unwrap();
    assert!(etcdctl.wait().unwrap().success(), "etcd takes {key}");
}

fn value(etcd: &Etcd, key: &str) -> String {
    etcd.etcdctl(&["get", "--print-value-only", key])
        .trim_end_matches('\n')
        .to_owned()
}

/// Waits until two more probing rounds have begun, and gives all lines so far that
/// speak of `words`.
fn lines_after_two_rounds(leader: &Process, words: &str) -> Vec<String> {
    for _ in 0..2 {
        let mark: Mark = leader.mark();
        leader.wait_for_line_after(mark, |line| line.starts_with("INFO:registry:Found "), SOON);
    }
    leader
        .lines()
        .into_iter()
        .filter(|line| line.contains(words))
        .collect()
}

fn broken() -> Vec<(String, Vec<u8>, &'static str)> {
    let other = "00000000-0000-4000-8000-0000000000";
    let values: Vec<(Vec<u8>, &str)> = vec![
        (b"no JSON at all".to_vec(), "expected"),
        (vec![0xff, 0xfe, 0], "expected value"),
        (b"[]".to_vec(), "invalid type"),
        (b"{}".to_vec(), "missing field `host`"),
        (
            record(json!({"uuid": UUID}))
                .replace(r#""pid":4749,"#, "")
                .into(),
            "missing field `pid`",
        ),
        (record(json!({"pid": "4749"})).into(), "invalid type"),
        (record(json!({"ports": []})).into(), "it has no port"),
        (record(json!({"ports": [0]})).into(), "it has no port"),
        (record(json!({"ports": [70_000]})).into(), "invalid value"),
        (record(json!({"host": ""})).into(), "is not a host"),
        (
            record(json!({"server": "a.b/c"})).into(),
            "is not a valid name",
        ),
        (
            record(json!({"functions": ["", "x"]})).into(),
            "is not a valid name",
        ),
        (
            record(json!({"kind": "k".repeat(200_000)})).into(),
            "is not a valid name",
        ),
        (
            record(json!({"pid": "4".repeat(200_000)})).into(),
            "invalid type",
        ),
        (record(json!({"when": "yesterday"})).into(), "invalid"),
        (record(json!({})).into(), "its key ends in"),
        (
            record(json!({"x": "y".repeat(1024 * 1024)})).into(),
            "bytes long, 262144 at most",
        ),
    ];
    let keyed = values.into_iter().enumerate();
    let mut broken: Vec<_> = keyed
        .map(|(i, (value, words))| (format!("/servers/{other}{i:02}"), value, words))
        .collect();
    broken.push((
        "/servers/no-uuid".into(),
        record(json!({})).into(),
        "its key ends in no-uuid",
    ));
    broken.push(("/servers/a/b".into(), b"{".to_vec(), "EOF"));
    broken
}

#[test]
fn invalid_records_are_logged_once_and_left_alone() {
    let etcd = Etcd::start();
    let broken = broken();
    let (before, after) = broken.split_at(broken.len() / 2);
    for (key, value, _) in before {
        put(&etcd, key, value);
    }
    let (leader, uuid) = printf(&etcd);
    configured(&leader, &uuid);
    for (key, value, _) in after {
        put(&etcd, key, value);
    }
    for (key, _, words) in &broken {
        let head =
            format!("WARNING:registry:{key} is not a valid record of a server, and is ignored: ");
        let (line, _) = leader.wait_for_line(|line| line.starts_with(&head), SOON);
        assert!(line.contains(words), "{words}: {line}");
        assert!(
            line.len() < 1000,
            "a line of {} bytes about {key}",
            line.len()
        );
    }
    // A good server joins, works and leaves beside them.
    let client = client(settings(&etcd), "printf", 1);
    let (second, other) = printf(&etcd);
    configured(&leader, &other);
    sees(&client, "printf", 2);
    for server in [&uuid, &other] {
        assert_eq!(
            call(&client, &format!("{server}.printf"), "Hello").expect("a good call"),
            "Hello"
        );
    }
    second.terminate();
    assert!(second.wait(SOON).success());
    leader.wait_for_line(
        |line| line == format!("INFO:registry:Deleted server {other} because it killed itself"),
        SOON,
    );

    let told = lines_after_two_rounds(&leader, "is not a valid record of a server");
    assert_eq!(told.len(), broken.len(), "each is told once: {told:#?}");
    for (key, _, _) in broken.iter().filter(|(_, value, _)| value.is_ascii()) {
        assert!(!value(&etcd, key).is_empty(), "{key} is left alone");
    }
    let summary = leader
        .lines()
        .into_iter()
        .rev()
        .find(|line| line.starts_with("INFO:registry:Found "))
        .unwrap();
    assert_eq!(
        summary,
        "INFO:registry:Found 1 servers, probing all of them"
    );
    // A record that is broken in another way is logged again; a repaired one is a server.
    put(&etcd, "/servers/no-uuid", b"{}");
    leader.wait_for_line(
        |line| line.contains("/servers/no-uuid") && line.contains("missing field `host`"),
        SOON,
    );
    assert!(leader.is_running());
}

#[test]
fn a_valid_record_without_a_server_stays_unconfigured() {
    let etcd = Etcd::start();
    let (leader, uuid) = printf(&etcd);
    configured(&leader, &uuid);
    let key = format!("/servers/{UUID}");
    put(&etcd, &key, b"broken at first");
    leader.wait_for_line(
        |line| line.starts_with(&format!("WARNING:registry:{key} is not a valid record")),
        SOON,
    );
    let ghost = record(json!({}));
    put(&etcd, &key, ghost.as_bytes());
    let words = format!(
        "WARNING:registry:Server {UUID} stays unconfigured: it does not answer at tcp://127.0.0.1:"
    );
    leader.wait_for_line(
        |line| line.starts_with(&words) && line.ends_with(": connection refused"),
        SOON,
    );
    assert_eq!(
        lines_after_two_rounds(&leader, "stays unconfigured").len(),
        1,
        "told once"
    );
    assert_eq!(value(&etcd, &key), ghost, "and left alone");
    // Another server answers at its endpoint: it is not configured either.
    let endpoint = leader
        .lines()
        .into_iter()
        .find_map(|line| Some(line.split(" at tcp://").nth(1)?.to_owned()))
        .unwrap();
    let port: u16 = endpoint.rsplit(':').next().unwrap().parse().unwrap();
    put(&etcd, &key, record(json!({"ports": [port]})).as_bytes());
    let words = format!(": server {uuid} answers there");
    leader.wait_for_line(|line| line.contains(UUID) && line.ends_with(&words), SOON);
    let published = etcd.etcdctl(&["get", "--prefix", "--keys-only", "/pipelines/"]);
    assert!(
        published.contains("/pipelines/printf/") && !published.contains(UUID),
        "{published}"
    );
    etcd.etcdctl(&["del", &key]);
    let words = format!("INFO:registry:Deleted server {UUID} because an administrator removed it");
    leader.wait_for_line(|line| line == words, SOON);
}

#[test]
fn unknown_fields_are_kept_when_a_leader_rewrites() {
    let etcd = Etcd::start();
    let (first, _) = printf(&etcd);
    first.wait_for_line(|line| line.ends_with(" configured"), SOON);
    let (second, uuid) = printf(&etcd);
    configured(&first, &uuid);
    let key = format!("/servers/{uuid}");
    let stored = value(&etcd, &key);
    // As a newer version would have written it: fields of its own, and not reached by a leader yet.
    let newer = stored.replace(
        r#""configured": true}"#,
        r#""configured": false, "weight": {"cpu": [1, 2.5]}, "ä": null}"#,
    );
    assert_ne!(newer, stored);
    etcd.etcdctl(&["put", "--ignore-lease", &key, &newer]);
    let rewritten = newer.replace(r#""configured": false"#, r#""configured": true"#);
    eventually("the leader configures it again", SOON, || {
        (value(&etcd, &key) == rewritten).then_some(())
    });
    // A successor rewrites it as well.
    let leader = |json: &str| {
        serde_json::from_str::<Value>(json).unwrap()["leader"]
            .as_str()
            .map(ToOwned::to_owned)
    };
    let old = leader(&rewritten).unwrap();
    first.terminate();
    assert!(first.wait(SOON).success());
    let rewritten = rewritten.replace(
        &format!(r#""leader": "{old}""#),
        &format!(r#""leader": "{uuid}""#),
    );
    eventually("the successor writes itself in", SOON, || {
        (value(&etcd, &key) == rewritten).then_some(())
    });
    assert!(second.is_running());
}
