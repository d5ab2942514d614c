//! `palm-cli call`.

use super::world::{Outcome, World};
use crate::in_process::{InProcess, settings};
use palm_peer::{Answer, Message, Server};

#[test]
fn the_answer_is_printed_byte_for_byte() {
    let world = World::new();
    let server = world.server();
    assert_eq!(
        world.cli(&["call", "printf.printf", "Hello, mesh"]).done(),
        "Hello, mesh"
    );
    assert_eq!(world.cli(&["call", "printf.printf"]).done(), "");
    assert_eq!(
        world
            .cli(&["call", &format!("{}.printf", server.uuid), "--", "--help"])
            .done(),
        "--help"
    );

    let bytes: Vec<u8> = (0..300_000_u32)
        .map(|n| u8::try_from(n % 251).expect("small"))
        .collect();
    let Outcome {
        code,
        stdout,
        stderr,
    } = world.cli_with(&["call", "printf.printf", "-"], &[], &bytes);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(
        stdout == bytes,
        "{} bytes came back of {}",
        stdout.len(),
        bytes.len()
    );
}

#[test]
fn the_store_of_a_server_is_reached_by_its_keys() {
    let world = World::new();
    let _server = world.server();
    assert_eq!(
        world
            .cli(&["call", "printf.set", "--cache", "greeting", "Hello"])
            .done(),
        "greeting"
    );
    world
        .cli_with(
            &["call", "printf.append", "-", "--cache=greeting"],
            &[],
            b", world",
        )
        .done();
    assert_eq!(
        world
            .cli(&["call", "--cache", "greeting", "printf.get"])
            .done(),
        "Hello, world"
    );
    world.cli(&["call", "printf.delete", "greeting"]).done();
    assert!(
        world
            .cli(&["call", "printf.get", "greeting"])
            .failed(1)
            .contains("no_such_key")
    );
}

#[test]
fn a_failed_call_says_why() {
    let world = World::new();
    assert!(
        world
            .cli(&["call", "printf.printf", "x"])
            .failed(1)
            .contains("no_such_server")
    );
    let server = world.server();
    for (target, kind, what_exists) in [
        ("text.shout", "no_such_server", "printf"),
        ("printf.shout", "no_such_function", "_log_query"),
        ("printf", "bad_message", "server.function"),
    ] {
        let words = world.cli(&["call", target, "x"]).failed(1);
        assert!(
            words.contains(kind) && words.contains(what_exists),
            "{words}"
        );
    }
    world
        .cli(&["call", "printf.printf", "x", "--timeout", "soon"])
        .failed(2);

    server.process.freeze();
    let words = world
        .cli(&["call", "printf.printf", "x", "--timeout", "0.3"])
        .failed(1);
    assert!(
        words.contains("timed_out") || words.contains("unreachable"),
        "{words}"
    );
    server.process.thaw();
}

#[test]
fn all_instances_can_be_called_at_once() {
    let world = World::new();
    let servers = [world.server(), world.server(), world.server_of("text", "")];
    let (first, second) = (&servers[0], &servers[1]);
    let said = world
        .cli(&["call", "printf.printf", "--all", "a\nb\\"])
        .done();
    let mut lines: Vec<_> = said.lines().collect();
    lines.sort_unstable();
    let mut expected = [first, second].map(|server| format!("{}\ta\\nb\\\\", server.uuid));
    expected.sort_unstable();
    assert_eq!(lines, expected);

    // What one instance does not answer is told beside the others' answers.
    second.process.freeze();
    let said = world.cli(&["call", "printf.printf", "--all", "x", "--timeout", "500ms"]);
    assert!(
        said.stderr
            .starts_with(&format!("palm-cli: {} (printf at tcp://", second.uuid))
            && said.stderr.ends_with("palm-cli: 1 of 2 calls failed\n"),
        "{said:?}"
    );
    assert_eq!(said.text(1), format!("{}\tx\n", first.uuid));
    second.process.thaw();
    let words = world.cli(&["call", "txet.shout", "--all"]).failed(1);
    assert!(words.contains("no_such_server"), "{words}");
}

#[test]
fn metadata_is_sent_and_shown() {
    let world = World::new();
    let function = async |message: Message| {
        let user = message.meta().get("user").unwrap_or_default();
        Ok(Answer::new(user.to_owned()).with_meta("said\n", "a=\\"))
    };
    let server = Server::new("zoo").function("user", function);
    let server = InProcess::start(server, settings(&world.etcd));
    let call = ["call", "zoo.user", "-H", "user=ada=x", "--meta", "more="];
    assert_eq!(world.cli(&call).done(), "ada=x");
    let said = world.cli(&[&call[..], &["--show-meta"]].concat());
    assert_eq!((said.code, &*said.stderr), (Some(0), "said\\n=a=\\\\\n"));
    assert_eq!(said.text(0), "ada=x");
    let uuid = server.peer.uuid();
    let said = world.cli(&[&call[..], &["--show-meta", "--all"]].concat());
    assert_eq!(said.stderr, format!("{uuid}\tsaid\\n=a=\\\\\n"));
    assert_eq!(said.text(0), format!("{uuid}\tada=x\n"));
    let job = world.cli_with(&["job", "zoo.user", "-H", "user=ada"], &[], b"1\n2\n");
    assert_eq!(job.done(), "ada\nada\n");

    let said = world.cli(&["call", "zoo.user", "-H", "user"]).failed(2);
    assert!(said.contains("such as user=ada"), "{said}");
    let long = format!("user={}", "x".repeat(9000));
    let said = world.cli(&["call", "zoo.user", "-H", &long]).failed(1);
    assert!(said.contains("bad_message: meta of 9004 bytes"), "{said}");
}
