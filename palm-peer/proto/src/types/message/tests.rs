use super::*;

fn bad(header: &str) -> BadHeader {
    decode(header.as_bytes()).expect_err(header)
}

#[test]
fn the_simplest_request_is_a_version_and_a_pipeline() {
    let simple = decode(br#"{"palm":1,"pipeline":["printf.printf"]}"#);
    assert_eq!(
        simple,
        Ok(Incoming::Request(Request::call("printf.printf")))
    );
}

#[test]
fn requests_and_greetings_round_trip() {
    let mut request = Request::call("a.b");
    request.route = vec![Uuid::from_u128(7)];
    request.idx = Some(9);
    assert_eq!(decode(&request.encode()), Ok(Incoming::Request(request)));
    let client = Uuid::from_u128(8);
    assert_eq!(
        decode(&encode_hello(client)),
        Ok(Incoming::Hello {
            client,
            bye: true,
            identify: false
        })
    );
    let identify = decode(&encode_identify(client));
    assert_eq!(
        identify,
        Ok(Incoming::Hello {
            client,
            bye: true,
            identify: true
        })
    );
    assert_eq!(
        decode(&encode_goodbye_ack(client)),
        Ok(Incoming::GoodbyeAck)
    );
}

#[test]
fn bad_headers_are_distinguished_and_keep_their_index() {
    assert!(bad("{").message.contains("not a header"));
    assert_eq!(bad(r#"{"palm":1,"pipeline":5,"idx":7}"#).idx, Some(7));
    assert!(
        bad(r#"{"palm":2,"pipeline":["a.b"]}"#)
            .message
            .contains("protocol 2")
    );
    for other in [
        r#"{"palm":2,"hello":"00000000-0000-4000-8000-000000000007"}"#,
        r#"{"palm":2,"bye":"00000000-0000-4000-8000-000000000007"}"#,
        r#"{"palm":2,"pipeline":{"new":"form"}}"#,
    ] {
        assert_eq!(
            bad(other).message,
            "protocol 2 is not supported, only 1",
            "{other}"
        );
    }
    assert!(
        bad(r#"{"palm":1,"hello":7}"#)
            .message
            .contains("expected a"),
        "{}",
        bad(r#"{"palm":1,"hello":7}"#).message
    );
    assert!(
        bad(r#"{"hello":"00000000-0000-4000-8000-000000000007"}"#)
            .message
            .contains("missing field `palm`")
    );
    assert_eq!(
        bad(r#"{"palm":1,"pipeline":["a.b"],"stage":1}"#).stage,
        Some(1)
    );
    assert_eq!(bad(r#"{"palm":1,"pipeline":7,"stage":3}"#).stage, Some(3));
    assert!(
        bad(r#"{"palm":1,"pipeline":[]}"#)
            .message
            .contains("stages")
    );
    assert!(
        bad(r#"{"palm":1,"pipeline":["a.b"],"stage":1}"#)
            .message
            .contains("stage 1")
    );
    assert!(
        bad(r#"{"palm":1,"pipeline":["a.b","c.d"]}"#)
            .message
            .contains("route")
    );
    assert!(
        bad(r#"{"palm":1,"pipeline":["a.b"],"stage":-1}"#)
            .message
            .contains("not a header")
    );
    assert!(
        bad(&" ".repeat(MAX_HEADER_BYTES + 1))
            .message
            .contains("at most")
    );
    assert!(bad(r#"[1,["a.b"]]"#).message.contains("not a JSON object"));
    assert!(
        bad(r#"[1,"00000000-0000-4000-8000-000000000007"]"#)
            .message
            .contains("not a JSON object")
    );
    assert!(
        bad(&r#"{"a":"#.repeat(10_000))
            .message
            .contains("not a header")
    );
    assert!(bad(&"[".repeat(60_000)).message.contains("not a header"));
}

#[test]
fn failure_kinds_have_stable_names() {
    assert_eq!(CallErrorKind::NoSuchKey.to_string(), "no_such_key");
    let newer: CallErrorKind =
        serde_json::from_str(r#""from_the_future""#).expect("known as unknown");
    assert_eq!(newer, CallErrorKind::Unknown);
}
