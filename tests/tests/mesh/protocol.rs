//! What `docs/protocol.md` shows is what servers do, byte for byte.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::in_process::{InProcess, SOON, Stranger, echo, settings};
use palm_peer::Server;
use palm_tests::{Etcd, eventually, wire::Wire};
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");
/// What the document has for the server's uuid, port, process and times.
const UUID: &str = "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4";
const PORT: &str = "5555";
const PID: &str = "4749";
const WHEN: [&str; 2] = ["2016-02-16T11:28:59.088608", "2016-02-16T15:59:01.000000"];

/// The code blocks of this language.
fn blocks(language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    let blocks: Vec<_> = DOCUMENT
        .split(&open)
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect();
    assert!(!blocks.is_empty(), "the document has blocks of {language}");
    blocks
}

fn printf(etcd: &Etcd) -> InProcess {
    let printf = Server::new("printf").function("printf", echo);
    // A message with a user costs as much as it is long, and what it has cost before.
    let printf = printf.wrap(|next, message| async move {
        let meta = message.meta().clone();
        let answer = next.run(message).await?;
        if meta.get("user").is_none() {
            return Ok(answer);
        }
        let before: usize = meta.get("cost").map_or(Ok(0), str::parse)?;
        let cost = before + answer.len();
        Ok(answer.with_meta("cost", cost.to_string()))
    });
    InProcess::start(printf, settings(etcd))
}

/// The frames of lines that begin with `mark`, taken off the front.
fn frames<'a>(lines: &mut std::iter::Peekable<std::str::Lines<'a>>, mark: &str) -> Vec<&'a str> {
    let mut frames = Vec::new();
    while let Some(frame) = lines.peek().and_then(|line| line.strip_prefix(mark)) {
        frames.push(frame.strip_prefix(' ').unwrap_or(frame));
        lines.next();
    }
    frames
}

#[test]
fn every_documented_exchange_holds() {
    let etcd = Etcd::start();
    let server = printf(&etcd);
    let uuid = server.peer.uuid().to_string();
    let mut stranger = Stranger::at(server.peer.endpoint());
    let mut exchanges = 0;
    for block in blocks("frames") {
        let block = block.replace(UUID, &uuid);
        let mut lines = block.lines().peekable();
        while lines.peek().is_some() {
            let (said, expected) = (frames(&mut lines, ">"), frames(&mut lines, "<"));
            assert!(
                !said.is_empty() && !expected.is_empty(),
                "a line that is neither said nor heard: {block}"
            );
            stranger.say(said);
            let heard = stranger.recv();
            let heard: Vec<_> = heard
                .iter()
                .map(|frame| std::str::from_utf8(frame).unwrap())
                .collect();
            assert_eq!(heard, expected);
            exchanges += 1;
        }
    }
    assert!(exchanges >= 10, "{exchanges} exchanges");
}

/// The bytes of a line of the document: a compact header in hexadecimal, with JSON behind it or
/// without, or text.
fn compact_bytes(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line;
    loop {
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        let hexadecimal = |pos: usize| u8::from_str_radix(word.get(pos..pos + 2)?, 16).ok();
        let of_word: Option<Vec<u8>> = (0..word.len()).step_by(2).map(hexadecimal).collect();
        let Some(of_word) = of_word.filter(|bytes| !bytes.is_empty()) else {
            bytes.extend_from_slice(rest.as_bytes());
            return bytes;
        };
        bytes.extend_from_slice(&of_word);
        rest = after;
    }
}

#[test]
fn every_documented_compact_exchange_holds() {
    if std::env::var("PALM_TEST_LINKS").is_ok_and(|links| links == "plain") {
        println!("SKIPPED: there are no native links in this run");
        return;
    }
    let etcd = Etcd::start();
    let server = printf(&etcd);
    let uuid = server.peer.uuid();
    let address = server.peer.endpoint().trim_start_matches("tcp://");
    let mut wire = Wire::native(address.parse().unwrap()).unwrap();
    let mut answers = 0;
    for block in blocks("compact") {
        let block = block
            .replace(UUID, &uuid.to_string())
            .replace(&UUID.replace('-', ""), &uuid.simple().to_string());
        let mut lines = block.lines().peekable();
        while lines.peek().is_some() {
            let (said, expected) = (frames(&mut lines, ">"), frames(&mut lines, "<"));
            assert!(
                said.len().is_multiple_of(2) && !expected.is_empty(),
                "{block}"
            );
            for message in said.chunks(2) {
                let message: Vec<_> = message.iter().map(|line| compact_bytes(line)).collect();
                wire.message(&[&message[0], &message[1]]).unwrap();
            }
            let expected: Vec<_> = expected.iter().map(|line| compact_bytes(line)).collect();
            assert_eq!(wire.answer().unwrap(), expected, "after {said:?}");
            answers += 1;
        }
    }
    assert!(answers >= 5, "{answers} answers");
}

#[test]
fn etcd_contents_match_the_document() {
    let etcd = Etcd::start();
    let mut server = printf(&etcd);
    let uuid = server.peer.uuid().to_string();
    let port = server
        .peer
        .endpoint()
        .rsplit(':')
        .next()
        .unwrap()
        .to_owned();
    let pid = std::process::id().to_string();
    let read = |key: &str| {
        let value = eventually("it lies in etcd", SOON, || {
            Some(etcd.etcdctl(&["get", "--print-value-only", key]))
                .filter(|value| !value.is_empty())
        });
        value.trim_end().to_owned()
    };
    let shown = |block: &str, value: &str| {
        let json: Value = serde_json::from_str(value).expect(value);
        let when = json["when"].as_str().unwrap_or_default();
        let text = block
            .replace(PORT, "{port}")
            .replace(PID, "{pid}")
            .replace(UUID, "{uuid}");
        let text = WHEN
            .iter()
            .fold(text, |text, shown| text.replace(shown, "{when}"));
        let filled = [
            ("{port}", port.as_str()),
            ("{pid}", &pid),
            ("{uuid}", &uuid),
            ("{when}", when),
        ];
        filled
            .iter()
            .fold(text, |text, (place, value)| text.replace(place, value))
            .trim_end()
            .to_owned()
    };
    let [record, instance, departure] =
        <[String; 3]>::try_from(blocks("json")).expect("three values");
    let value = read(&format!("/servers/{uuid}"));
    assert_eq!(value, shown(&record, &value));
    let value = read(&format!("/pipelines/printf/{uuid}"));
    assert_eq!(value, shown(&instance, &value));
    server.leave();
    server.ended().unwrap();
    let value = read(&format!("/departed/{uuid}"));
    assert_eq!(value, shown(&departure, &value));
}
