//! Requests of callers, valid and invalid.

use bytes::Bytes;
use palm_peer::Server;
use palm_tests::Etcd;
use serde_json::{Value, json};

use crate::in_process::{InProcess, Stranger, echo, settings};

const UUID: &str = "00000000-0000-4000-8000-000000000007";
const GOOD: &str = r#"{"palm":1,"pipeline":["zoo.echo"]}"#;

fn mesh() -> (Etcd, InProcess, Stranger) {
    let etcd = Etcd::start();
    let inside = InProcess::start(Server::new("zoo").function("echo", echo), settings(&etcd));
    let stranger = Stranger::at(inside.peer.endpoint());
    (etcd, inside, stranger)
}

#[track_caller]
fn is_well(stranger: &mut Stranger) {
    let (answer, payload) = stranger.ask([GOOD, "still there"]);
    assert!(
        answer["error"].is_null() && payload == "still there",
        "{answer}"
    );
}

/// Sends a header, and expects an error of this kind that speaks of `words`.
#[track_caller]
fn refused(stranger: &mut Stranger, header: impl Into<Bytes>, kind: &str, words: &str) -> Value {
    let (answer, payload) = stranger.ask([header.into(), Bytes::from("payload")]);
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    assert!(
        answer["error"]["kind"] == kind && message.contains(words),
        "{kind}, {words}: {answer}"
    );
    assert_eq!(payload, "", "an error comes without a result");
    is_well(stranger);
    answer
}

/// A good header but for these fields.
fn with(changes: Value) -> String {
    let mut header: Value = serde_json::from_str(GOOD).unwrap();
    let Value::Object(changes) = changes else {
        panic!("an object")
    };
    header.as_object_mut().unwrap().extend(changes);
    header.to_string()
}

#[test]
fn invalid_headers_are_bad_messages() {
    let (_etcd, _server, mut stranger) = mesh();
    let long_but_good = with(json!({"x": "y".repeat(64 * 1024)}));
    for (header, words) in [
        (Bytes::from("{"), "EOF"),
        (Bytes::from("printf.printf"), "not a header"),
        (Bytes::from(vec![0xff; 100]), "not a header"),
        (Bytes::from(format!("{GOOD} {GOOD}")), "trailing"),
        (Bytes::from("[]"), "not a header"),
        (Bytes::from("null"), "not a header"),
        (Bytes::from("7"), "not a header"),
        (Bytes::from(r#"[1,["zoo.echo"]]"#), "not a JSON object"),
        (Bytes::from("{}"), "missing field"),
        (Bytes::from(r#"{"palm":1}"#), "missing field `pipeline`"),
        (
            Bytes::from(r#"{"pipeline":["zoo.echo"]}"#),
            "missing field `palm`",
        ),
        (
            Bytes::from(r#"{"palm":1,"palm":1,"pipeline":["zoo.echo"]}"#),
            "duplicate field",
        ),
        (Bytes::from("[".repeat(60_000)), "not a header"),
        (
            Bytes::from(r#"{"palm":1,"pipeline":"#.to_owned() + &"[".repeat(60_000)),
            "not a header",
        ),
        (
            Bytes::from(" ".repeat(1024 * 1024)),
            "header of 1048576 bytes, 65536 at most",
        ),
        (Bytes::from(long_but_good), "65536 at most"),
        (
            Bytes::from(format!(r#"{{"palm":1,"hello":"{}"}}"#, "x".repeat(36))),
            "not a header",
        ),
        (Bytes::from(r#"{"palm":1,"hello":7}"#), "not a header"),
    ] {
        refused(&mut stranger, header, "bad_message", words);
    }
}

#[test]
fn fields_of_wrong_types_are_bad_messages_with_their_index() {
    let (_etcd, _server, mut stranger) = mesh();
    for (changes, words) in [
        (json!({"palm": 2}), "protocol 2 is not supported, only 1"),
        (json!({"palm": 0}), "protocol 0"),
        (json!({"palm": "1"}), "invalid type"),
        (json!({"palm": 1.0}), "invalid type"),
        (json!({"palm": -1}), "invalid value"),
        (json!({"pipeline": "zoo.echo"}), "invalid type"),
        (json!({"pipeline": [7]}), "invalid type"),
        (json!({"pipeline": []}), "1 to 64 stages"),
        (json!({"pipeline": vec!["zoo.echo"; 65]}), "1 to 64 stages"),
        (
            json!({"pipeline": ["zoo.echo", "zoo.echo"]}),
            "needs a route",
        ),
        (
            json!({"pipeline": ["zoo.echo", "zoo.echo"], "route": [UUID, UUID]}),
            "needs a client",
        ),
        (json!({"pipeline": ["zoo"]}), "server.function"),
        (json!({"pipeline": ["zoo.echo/x"]}), "server.function"),
        (json!({"stage": 1}), "stage 1 of a pipeline of 1"),
        (json!({"stage": -1}), "invalid value"),
        (json!({"stage": null}), "invalid type"),
        (json!({"route": ["me"]}), "UUID"),
        (json!({"route": null}), "invalid type"),
        (
            json!({"route": [UUID, UUID]}),
            "a route of 2 for a pipeline of 1",
        ),
        (json!({"client": 7}), "invalid type"),
        (json!({"timeout_ms": "soon"}), "invalid type"),
        (json!({"timeout_ms": 1e300}), "invalid type"),
        (json!({"cache": ["k"]}), "invalid type"),
    ] {
        let mut changes = changes;
        changes["idx"] = 42.into();
        changes["job"] = UUID.into();
        let answer = refused(&mut stranger, with(changes.clone()), "bad_message", words);
        assert_eq!(
            (&answer["idx"], &answer["job"]),
            (&42.into(), &UUID.into()),
            "{changes}: {answer}"
        );
    }
    let answer = refused(
        &mut stranger,
        with(json!({"idx": "x", "job": 7})),
        "bad_message",
        "invalid type",
    );
    assert!(
        answer.get("idx").is_none() && answer.get("job").is_none(),
        "{answer}"
    );
}

#[test]
fn messages_for_other_servers_are_refused() {
    let (_etcd, server, mut stranger) = mesh();
    let uuid = server.peer.uuid();
    refused(
        &mut stranger,
        with(json!({"pipeline": ["zoo.roar"]})),
        "no_such_function",
        "only echo, _ping",
    );
    refused(
        &mut stranger,
        with(json!({"pipeline": ["park.echo"]})),
        "wrong_server",
        &format!("this is zoo {uuid}"),
    );
    refused(
        &mut stranger,
        with(json!({"pipeline": [format!("{UUID}.echo")]})),
        "wrong_server",
        "this is zoo",
    );
    refused(
        &mut stranger,
        with(json!({"route": [UUID]})),
        "wrong_server",
        "this is zoo",
    );
    for good in [
        json!({"route": [uuid]}),
        json!({"pipeline": [format!("{uuid}.echo")]}),
    ] {
        assert_eq!(stranger.ask([with(good), "me".into()]).1, "me");
    }
}

#[test]
fn additions_of_newer_versions_are_ignored() {
    let (_etcd, _server, mut stranger) = mesh();
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let header = GOOD.replace(
        '}',
        &format!(r#","weight":{{"cpu":[1,2]}},"deep":{deep},"error":"none"}}"#),
    );
    assert_eq!(stranger.ask([header.as_str(), "me"]).1, "me");
    let nulls = json!({"client": null, "job": null, "idx": null, "timeout_ms": null, "cache": null, "route": []});
    assert_eq!(stranger.ask([with(nulls), "me".into()]).1, "me");
}

#[test]
fn frames_make_a_message_or_an_error() {
    let (_etcd, server, mut stranger) = mesh();
    let (answer, _) = stranger.ask([""]);
    assert_eq!(answer["error"]["kind"], "bad_message", "{answer}");
    is_well(&mut stranger);
    let numbered = with(json!({"idx": 5}));
    let (answer, _) = stranger.ask([numbered.as_str(), "payload", "more", "more"]);
    assert_eq!(
        (&answer["error"]["kind"], &answer["idx"]),
        (&"bad_message".into(), &5.into()),
        "{answer}"
    );
    assert!(
        answer["error"]["message"]
            .as_str()
            .is_some_and(|words| words.contains("two frames")),
        "{answer}"
    );
    is_well(&mut stranger);
    let (answer, payload) = stranger.ask([numbered.as_str()]);
    assert_eq!(payload, "", "no payload is an empty one");
    assert_eq!(
        answer,
        json!({"palm": 1, "idx": 5, "stage": 0, "server": server.peer.uuid()})
    );
    // The ingress rejects larger ones.
    stranger.say(vec![GOOD; 8]);
    assert_eq!(stranger.answer().0["error"]["kind"], "bad_message");
    is_well(&mut stranger);
}

#[test]
fn the_delimiter_of_a_req_comes_back() {
    let (_etcd, server, mut stranger) = mesh();
    for (frames, error) in [
        (vec!["", GOOD, "me"], Value::Null),
        (vec!["", GOOD], Value::Null),
        (vec!["", "{"], "bad_message".into()),
        (vec!["", ""], "bad_message".into()),
        (vec!["", GOOD, "me", "more"], "bad_message".into()),
    ] {
        stranger.say(frames.clone());
        let heard = stranger.recv();
        assert!(
            heard.len() == 3 && heard[0].is_empty(),
            "{frames:?}: {heard:?}"
        );
        let header: Value = serde_json::from_slice(&heard[1]).unwrap();
        assert_eq!(header["error"]["kind"], error, "{frames:?}: {header}");
    }
    let hello = format!(r#"{{"palm":1,"hello":"{UUID}"}}"#);
    stranger.say(["", &hello]);
    let greeting = json!({"palm": 1, "server": server.peer.uuid()}).to_string();
    assert_eq!(stranger.recv(), ["", &greeting, ""]);
    assert_eq!(
        stranger.ask([hello.as_str()]).0,
        json!({"palm": 1, "server": server.peer.uuid()})
    );
    assert_eq!(
        stranger.ask([hello.as_str(), "more", "frames"]).0["server"],
        json!(server.peer.uuid())
    );
    is_well(&mut stranger);
}

/// A server may pass a message on to an instance that its client does not know yet. The answer used
/// to go to that server.
#[test]
fn an_answer_waits_for_a_client_that_has_not_greeted() {
    let (_etcd, server, mut other_stage) = mesh();
    let uuid = server.peer.uuid();
    let header = json!({
        "palm": 1, "pipeline": ["a.f", format!("{uuid}.echo")], "stage": 1, "route": [UUID, uuid], "client": UUID, "job": UUID, "idx": 7
    });
    other_stage.say([header.to_string().as_str(), "late"]);
    is_well(&mut other_stage);
    let mut client = Stranger::at(server.peer.endpoint());
    let (greeting, _) = client.ask([format!(r#"{{"palm":1,"hello":"{UUID}"}}"#)]);
    assert_eq!(greeting, json!({"palm": 1, "server": uuid}));
    let (answer, payload) = client.answer();
    assert_eq!(
        (&answer["idx"], &answer["stage"], &payload[..]),
        (&json!(7), &json!(1), &b"late"[..]),
        "{answer}"
    );
}
