use super::*;
use fastrand::Rng;
use std::sync::Arc;

const INSTANCE_1: Uuid = Uuid::from_u128(0xe5cd_88f7_0f5c_4278_bcc9_fa8c_aefa_dbb4);

fn encoded(header: &Compact<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    bytes
}

fn message_of(header: &[u8]) -> String {
    Compact::decode(header).expect_err("a bad header").message
}

fn request<'a>(route: &'a [[u8; 2]], meta: Option<&'a [u8]>) -> RequestHeader<'a> {
    RequestHeader {
        template: 0x0102,
        stage: 3,
        idx: 0x1112_1314_1516_1718,
        timeout_ms: Some(5000),
        route: Route::of(route),
        meta,
    }
}

#[test]
fn each_kind_has_the_documented_bytes() {
    let register = Compact::Register {
        number: 7,
        job: 9,
        json: b"{}",
    };
    assert_eq!(encoded(&register), b"\x01\0\0\x07\0\0\0\x09{}");
    let call = Compact::Request(request(&[], None));
    assert_eq!(
        encoded(&call),
        b"\x02\0\x03\x01\x02\x11\x12\x13\x14\x15\x16\x17\x18\0\0\x13\x88"
    );
    let routed = Compact::Request(request(&[[0, 1], [0, 2]], Some(b"{}")));
    assert_eq!(
        encoded(&routed),
        b"\x02\x03\x03\x01\x02\x11\x12\x13\x14\x15\x16\x17\x18\0\0\x13\x88\x02\0\x01\0\x02{}"
    );
    let mut result = ResultHeader {
        stage: 2,
        job: 9,
        idx: 5,
        meta: None,
    };
    assert_eq!(
        encoded(&Compact::Result(result)),
        b"\x03\0\x02\0\0\0\x09\0\0\0\0\0\0\0\x05"
    );
    result.meta = Some(b"{}");
    assert_eq!(
        encoded(&Compact::Result(result)),
        b"\x03\x02\x02\0\0\0\x09\0\0\0\0\0\0\0\x05{}"
    );
    let unregister = Compact::Unregister { number: 0x0fff };
    assert_eq!(encoded(&unregister), b"\x04\0\x0f\xff");
    let instance = Compact::Instance {
        number: 1,
        uuid: INSTANCE_1,
    };
    assert_eq!(
        encoded(&instance),
        b"\x05\0\0\x01\xe5\xcd\x88\xf7\x0f\x5c\x42\x78\xbc\xc9\xfa\x8c\xae\xfa\xdb\xb4"
    );
    for header in [register, call, routed, unregister, instance] {
        assert_eq!(Compact::decode(&encoded(&header)), Ok(header));
    }
}

#[test]
fn a_missing_timeout_is_the_servers_own() {
    let mut header = request(&[], None);
    header.timeout_ms = None;
    let bytes = encoded(&Compact::Request(header));
    assert_eq!(Compact::decode(&bytes), Ok(Compact::Request(header)));
}

#[test]
fn bad_headers_say_what_is_wrong_and_keep_their_index() {
    let whole = encoded(&Compact::Request(request(&[[0, 1]], None)));
    for length in 1..whole.len() {
        let bad = Compact::decode(&whole[..length]).expect_err("it is cut off");
        assert!(bad.message.contains("too short"), "{length}: {bad:?}");
        assert_eq!(bad.idx.is_some(), length >= 13, "{length}");
    }
    assert!(message_of(b"\x07\0").contains("no kind"));
    assert!(message_of(b"\x01\x01\0\0\0\0\0\0{}").contains("flags"));
    assert!(message_of(b"\x01\0\x10\0\0\0\0\0{}").contains("4096 at most"));
    assert!(message_of(b"\x04\0\0\x01\0").contains("1 bytes too long"));
    let mut flagged = whole.clone();
    flagged[1] |= 4;
    let bad = Compact::decode(&flagged).expect_err("unknown flags");
    assert_eq!((bad.idx, bad.stage), (Some(0x1112_1314_1516_1718), Some(3)));
    let mut long_route = whole.clone();
    long_route[17] = 65;
    assert!(message_of(&long_route).contains("1 to 64"));
    long_route[17] = 0;
    assert!(message_of(&long_route).contains("1 to 64"));
    assert!(message_of(&[&whole[..], b"x"].concat()).contains("too long"));
    let mut meta = whole;
    meta[1] |= WITH_META;
    meta.push(b'[');
    assert!(message_of(&meta).contains("no JSON object"));
    assert!(message_of(&vec![1; MAX_HEADER_BYTES + 1]).contains("at most"));
}

#[test]
fn json_is_no_compact_header() {
    for json in [&b"{}"[..], b" {}", b"\n{}", b"\t{}", b"\r{}", b""] {
        assert!(!is_compact(json));
    }
    assert!((1..=5).all(|kind| is_compact(&[kind])));
}

#[test]
fn a_template_and_a_header_make_a_request() {
    let mut request = Request::call("a.b");
    request.pipeline = Arc::new([request.pipeline[0].clone(), "c.d".into()]);
    request.client = Some(Uuid::from_u128(1));
    request.job = Some(Uuid::from_u128(2));
    request.report = true;
    request.route = vec![INSTANCE_1, Uuid::from_u128(4)];
    request.idx = Some(0x1112_1314_1516_1718);
    request.timeout_ms = Some(5000);
    request.stage = 1;
    let template = Template::of(9, &request);
    assert_eq!((template.job, template.request.idx), (9, None));
    assert_eq!(Template::parse(9, template.json()), Ok(template.clone()));
    assert!(template.fits(&request));
    let mut other = request.clone();
    other.meta.insert("user", "ada");
    assert!(template.fits(&other));
    assert_eq!(Template::of(9, &other), template);
    for change in [
        |request: &mut Request| request.job = None,
        |request: &mut Request| request.cache = Some("key".into()),
        |request: &mut Request| request.avoid = vec![INSTANCE_1],
        |request: &mut Request| request.pipeline = Arc::new([request.pipeline[0].clone()]),
        |request: &mut Request| request.report = false,
        |request: &mut Request| request.client = None,
    ] {
        let mut other = request.clone();
        change(&mut other);
        assert!(!template.fits(&other), "{other:?}");
    }
    let known = |number| match number {
        1 => Some(INSTANCE_1),
        2 => Some(Uuid::from_u128(4)),
        _ => None,
    };
    let mut header = self::request(&[[0, 1], [0, 2]], None);
    header.stage = 1;
    assert_eq!(template.expand(&header, known), Ok(request));
    header.meta = Some(b"{\"user\":\"ada\"}");
    assert_eq!(template.expand(&header, known), Ok(other));

    let expand = |header: &RequestHeader<'_>| template.expand(header, known).expect_err("bad");
    header.stage = 2;
    let bad = expand(&header);
    assert!(
        bad.message.contains("stage 2 of a pipeline of 2"),
        "{bad:?}"
    );
    assert_eq!(
        (bad.job, bad.idx, bad.stage),
        (Some(Uuid::from_u128(2)), Some(header.idx), Some(2))
    );
    (header.stage, header.meta) = (0, Some(&b"{\"user\":0}"[..]));
    let bad = expand(&header);
    assert!(bad.message.contains("meta \"user\": invalid"), "{bad:?}");
    assert_eq!(bad.idx, Some(header.idx));
    header.meta = None;
    header.route = Route::default();
    assert!(expand(&header).message.contains("needs a route"));
    header.route = Route::of(&[[0, 1]]);
    assert!(expand(&header).message.contains("a route of 1"));
    header.route = Route::of(&[[0, 1], [0, 3]]);
    assert!(expand(&header).message.contains("registered as 3"));
}

#[test]
fn what_is_no_header_is_no_template() {
    for json in [
        &br#"{"palm":1,"pipeline":[]}"#[..],
        br#"{"palm":2,"pipeline":["a.b"]}"#,
        br#"{"palm":1,"pipeline":["a.b","c.d"]}"#,
        br#"{"palm":1,"hello":"00000000-0000-4000-8000-000000000007"}"#,
        b"",
    ] {
        assert!(Template::parse(0, json).is_err(), "{}", json.escape_ascii());
    }
}

#[test]
fn any_bytes_are_refused_or_round_trip() {
    for seed in 0..20_000 {
        let mut rng = Rng::with_seed(seed);
        let mut bytes: Vec<u8> = (0..rng.usize(..40)).map(|_| rng.u8(..)).collect();
        if let [kind, flags, ..] = &mut bytes[..] {
            (*kind, *flags) = (rng.u8(..7), rng.u8(..4));
        }
        if let Ok(header) = Compact::decode(&bytes) {
            assert_eq!(encoded(&header), bytes, "seed {seed}");
        }
    }
}
