//! The built-in functions.

use bytes::Bytes;
use futures::executor::block_on;
use palm_peer::{CallError, CallErrorKind, Client, Config, FunctionError, Message, Server};
use palm_tests::Etcd;
use serde_json::Value;

use crate::{
    functions::is_well,
    in_process::{InProcess, Stranger, call, client, echo, settings},
};

fn mesh(change: impl FnOnce(&mut Config)) -> (Etcd, InProcess, Client) {
    let etcd = Etcd::start();
    let mut own = settings(&etcd);
    change(&mut own);
    let fails = async |_: Message| -> Result<Bytes, FunctionError> { Err("no such luck".into()) };
    let inside = InProcess::start(
        Server::new("zoo")
            .function("echo", echo)
            .function("fails", fails),
        own,
    );
    let client = client(settings(&etcd), "zoo", 1);
    (etcd, inside, client)
}

fn store(
    client: &Client,
    function: &str,
    key: &str,
    payload: impl Into<Bytes>,
) -> Result<Bytes, CallError> {
    block_on(async {
        client
            .call(format!("zoo.{function}"), payload)
            .cache(key)
            .await
    })
}

#[track_caller]
fn kind(result: Result<Bytes, CallError>) -> CallErrorKind {
    result.expect_err("an error").kind()
}

#[test]
fn ping_returns_the_uuid_and_statistics() {
    let (_etcd, server, client) = mesh(|_| {});
    let ping = || -> Value {
        serde_json::from_slice(&call(&client, "zoo._ping", "").expect("alive")).expect("JSON")
    };
    let before = ping();
    assert_eq!(before["uuid"], server.peer.uuid().to_string());
    assert_eq!(
        (&before["server"], &before["requests"], &before["errors"]),
        (&"zoo".into(), &0.into(), &0.into())
    );
    assert!(
        before["p50_us"].is_null() && before["p99_us"].is_null(),
        "{before}"
    );
    for _ in 0..3 {
        is_well(&client);
    }
    assert_eq!(kind(call(&client, "zoo.fails", "")), CallErrorKind::Failed);
    let after = ping();
    assert_eq!(
        (&after["requests"], &after["errors"], &after["in_flight"]),
        (&4.into(), &1.into(), &0.into())
    );
    assert!(
        after["p50_us"].as_u64() <= after["p99_us"].as_u64() && after["p99_us"].is_u64(),
        "{after}"
    );
    let fails = &after["functions"]["fails"];
    assert_eq!(
        (
            &fails["requests"],
            &fails["errors"],
            &fails["last_error"]["kind"]
        ),
        (
            &1.into(),
            &serde_json::json!({"failed": 1}),
            &"failed".into()
        ),
        "{after}"
    );
    assert!(
        after["uptime"].as_f64() > before["uptime"].as_f64(),
        "{after}"
    );
}

#[test]
fn log_queries_take_a_level_and_refuse_others() {
    let (_etcd, _server, client) = mesh(|_| {});
    for level in [
        "", "ERROR", "critical", "WARNING", "warn", "INFO", " debug ", "TRACE",
    ] {
        call(&client, "zoo._log_query", level).expect(level);
    }
    let error = call(&client, "zoo._log_query", "LOUD").expect_err("no level");
    assert!(
        error.kind() == CallErrorKind::BadMessage && error.message().contains("LOUD"),
        "{error}"
    );
    is_well(&client);
}

#[test]
fn the_store_keeps_values() {
    let (_etcd, server, client) = mesh(|_| {});
    assert_eq!(store(&client, "set", "k", "one").expect("room"), "k");
    assert_eq!(store(&client, "append", "k", " two").expect("room"), "k");
    assert_eq!(store(&client, "get", "k", "").expect("there"), "one two");
    assert_eq!(
        call(&client, "zoo.get", "k").expect("the payload is a key, too"),
        "one two"
    );
    assert_eq!(
        store(&client, "get", "k", "other").expect("but cache comes first"),
        "one two"
    );
    let made_up = call(&client, "zoo.set", "three").expect("room");
    assert_eq!(made_up.len(), 36, "{made_up:?}");
    assert_eq!(call(&client, "zoo.get", made_up).expect("there"), "three");
    assert_eq!(
        store(&client, "append", "new", "four").expect("room"),
        "new"
    );
    assert_eq!(store(&client, "set", "empty", "").expect("room"), "empty");
    assert_eq!(store(&client, "get", "empty", "").expect("there"), "");
    assert_eq!(store(&client, "delete", "k", "").expect("there"), "k");
    for function in ["get", "delete"] {
        let error = store(&client, function, "k", "").expect_err("deleted");
        assert!(
            error.kind() == CallErrorKind::NoSuchKey && error.message().contains("\"k\""),
            "{error}"
        );
        is_well(&client);
    }
    // By its uuid, too: each instance has a store of its own.
    let get = format!("{}.get", server.peer.uuid());
    assert_eq!(call(&client, &get, "new").expect("there"), "four");
}

#[test]
fn a_full_store_and_invalid_keys_are_refused_unchanged() {
    let (_etcd, server, client) = mesh(|settings| settings.max_store = 1000);
    store(&client, "set", "k", vec![1; 800]).expect("room");
    assert_eq!(
        kind(store(&client, "set", "l", vec![2; 800])),
        CallErrorKind::Full
    );
    assert_eq!(
        kind(store(&client, "append", "k", vec![2; 800])),
        CallErrorKind::Full
    );
    assert_eq!(
        kind(store(&client, "set", "k", vec![2; 1000])),
        CallErrorKind::Full
    );
    assert_eq!(
        kind(store(&client, "get", "l", "")),
        CallErrorKind::NoSuchKey
    );
    assert_eq!(
        store(&client, "get", "k", "").expect("as it was"),
        vec![1; 800]
    );
    assert_eq!(
        kind(store(&client, "set", "", "x")),
        CallErrorKind::BadMessage
    );
    assert_eq!(
        kind(store(&client, "set", &"k".repeat(1025), "x")),
        CallErrorKind::BadMessage
    );
    assert_eq!(
        kind(call(&client, "zoo.get", vec![0xff])),
        CallErrorKind::BadMessage
    );
    store(&client, "delete", "k", "").expect("there");
    store(&client, "set", "l", vec![2; 800]).expect("room again");
    is_well(&client);
    let mut stranger = Stranger::at(server.peer.endpoint());
    let (answer, _) = stranger.ask([
        r#"{"palm":1,"pipeline":["zoo.set"],"cache":"m"}"#,
        &"x".repeat(900),
    ]);
    assert_eq!(answer["error"]["kind"], "full", "{answer}");
}

/// It used to be answered whole, upon which the client ended the connection.
#[test]
fn a_value_too_long_for_an_answer_is_refused_and_kept() {
    let (_etcd, _server, client) = mesh(|settings| settings.max_payload = 1000);
    for _ in 0..2 {
        store(&client, "append", "k", vec![1; 600]).expect("room");
    }
    let error = store(&client, "get", "k", "").expect_err("too long");
    assert!(
        error.kind() == CallErrorKind::TooLarge
            && error.message().contains("1200 bytes, 1000 at most"),
        "{error}"
    );
    store(&client, "delete", "k", "").expect("still there");
    is_well(&client);
}

/// The server answers a header that it did not read without its number, so the client used to wait
/// for its deadline.
#[test]
fn a_key_too_long_for_a_header_is_refused_by_the_client() {
    let (_etcd, _server, client) = mesh(|_| {});
    let error = store(&client, "get", &"k".repeat(70_000), "").expect_err("too long");
    assert!(
        error.kind() == CallErrorKind::BadMessage && error.message().contains("65536 at most"),
        "{error}"
    );
    is_well(&client);
}
