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

#[test]
fn details_of_an_error_are_bounded_and_travel() {
    let nested =
        |depth: usize| (0..depth).fold(serde_json::json!(1), |inner, _| serde_json::json!([inner]));
    let failed = || CallFailure::new(CallErrorKind::Failed, "no item bolt");
    let whole = failed().with_details("no_item", Some(nested(MAX_DATA_DEPTH)));
    assert_eq!(whole.title(), "failed (no_item)");
    let mut answer = Answer::greeting(Uuid::nil());
    answer.error = Some(whole.clone());
    let read = Answer::decode(&answer.encode()).expect("an answer");
    assert_eq!(read.error, Some(whole));

    let long = serde_json::json!("x".repeat(MAX_DATA_BYTES));
    for (data, reason) in [
        (nested(MAX_DATA_DEPTH + 1), "nested"),
        (long, "16386 bytes"),
    ] {
        let failure = failed().with_details("é".repeat(MAX_CODE_BYTES), Some(data));
        assert_eq!(failure.data, None);
        assert!(failure.message.contains(reason), "{}", failure.message);
        assert_eq!(failure.code.map(|code| code.len()), Some(MAX_CODE_BYTES));
    }
    // The longest of all of them still fits into a header.
    let data = serde_json::json!("\u{1}".repeat((MAX_DATA_BYTES - 2) / 6));
    let control = "\u{1}".repeat(2 * MAX_MESSAGE_BYTES);
    let failure =
        CallFailure::new(CallErrorKind::Failed, &control).with_details(control, Some(data));
    assert!(failure.data.is_some());
    answer.error = Some(failure);
    assert!(answer.encode().len() <= MAX_HEADER_BYTES);
}

#[test]
fn meta_is_read_and_its_errors_keep_the_index() {
    let mut request = Request::call("a.b");
    request.idx = Some(7);
    assert!(
        !request
            .encode()
            .windows(6)
            .any(|bytes| bytes == b"\"meta\"")
    );
    request.meta.insert("user", "ada");
    let header = request.encode();
    assert_eq!(decode(&header), Ok(Incoming::Request(request.clone())));

    request.meta.insert("long", "x".repeat(9000));
    let long = String::from_utf8(request.encode()).expect("JSON");
    for (header, problem) in [
        (&*long, "meta of 9011 bytes, 8192 at most"),
        (
            r#"{"palm":1,"pipeline":["a.b"],"idx":7,"meta":{"a":1}}"#,
            r#"meta "a": invalid type"#,
        ),
        (
            r#"{"palm":1,"pipeline":["a.b"],"idx":7,"meta":["a"]}"#,
            "meta as an object of strings",
        ),
        (
            r#"{"palm":1,"pipeline":["a.b"],"idx":7,"meta":{"":""}}"#,
            "meta with an empty name",
        ),
        (
            r#"{"palm":1,"pipeline":["a.b"],"idx":7,"meta":{"a":"","a":""}}"#,
            r#"meta has "a" twice"#,
        ),
    ] {
        let bad = bad(header);
        assert!(bad.message.contains(problem), "{bad:?}");
        assert_eq!(bad.idx, Some(7), "{bad:?}");
    }
}

#[test]
fn an_answer_carries_meta() {
    let mut answer = Answer::greeting(Uuid::nil());
    answer.meta.insert("cost", "3");
    assert_eq!(Answer::decode(&answer.encode()), Some(answer.clone()));
    answer.meta.insert("long", "x".repeat(9000));
    assert_eq!(Answer::decode(&answer.encode()), None);
}
