//! `palm-cli job`.

use super::world::{Outcome, SOON, World, bounded};
use palm_tests::{binary, eventually};
use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdin, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

impl World {
    fn job(&self, args: &[&str], input: &[u8]) -> Outcome {
        self.cli_with(&[&["job"], args].concat(), &[], input)
    }

    /// Starts a job whose input and output the test controls.
    fn start_job(&self, args: &[&str]) -> (Child, ChildStdin) {
        let mut command = bounded(binary("palm-cli"));
        command
            .arg("job")
            .args(args)
            .env("PALM_ETCD", self.etcd.endpoint());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("timeout(1) starts");
        let stdin = child.stdin.take().expect("a piped stdin");
        (child, stdin)
    }
}

fn numbers(count: usize) -> String {
    (0..count).fold(String::new(), |mut lines, n| {
        let _ = writeln!(lines, "line {n}");
        lines
    })
}

#[test]
fn lines_become_results_in_order() {
    let world = World::new();
    let _servers = (world.server_of("text", ""), world.server_of("text", ""));
    let lines = numbers(50_000);
    let said = world
        .job(&["text.shout", "--window", "64"], lines.as_bytes())
        .done();
    assert!(
        said == lines.to_uppercase(),
        "{} of {} bytes came",
        said.len(),
        lines.len()
    );

    for (pipeline, input, output) in [
        ("text.shout", "", ""),
        ("text.shout", "last", "LAST\n"),
        ("text.shout", "\n\na\r\n", "\n\nA\r\n"),
        ("text.shout, text.count", "to be\nor not to be\n", "2\n4\n"),
    ] {
        assert_eq!(
            world.job(&[pipeline], input.as_bytes()).done(),
            output,
            "{input:?}"
        );
    }
    assert_eq!(
        world.job(&["text.shout", "--null"], b"a\nb\0\0c").done(),
        "A\nB\0\0C\0"
    );
}

#[test]
fn unordered_results_do_not_wait_for_slow_messages() {
    let world = World::new();
    let (able, stuck) = (world.server_of("text", ""), world.server_of("text", ""));
    let lines = numbers(2000);
    let said = world
        .job(
            &["text.shout", "--unordered", "--attempts=1"],
            lines.as_bytes(),
        )
        .done();
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&said), sorted(&lines.to_uppercase()));

    // An unanswered message delays only the ordered results behind it.
    stuck.process.freeze();
    let (pinned, free) = (
        format!("{}.shout", stuck.uuid),
        format!("{}.shout", able.uuid),
    );
    let words = world
        .job(&[&pinned, "--timeout", "0.5", "--attempts", "1"], b"a\n")
        .failed(1);
    assert!(
        words.contains("palm-cli: message 0: ") && words.contains("1 of 1 message failed"),
        "{words}"
    );
    assert_eq!(world.job(&[&free], b"a\n").done(), "A\n");
    let (mut child, mut stdin) = world.start_job(&["text.shout", "--unordered", "--timeout", "20"]);
    stdin
        .write_all(lines.as_bytes())
        .expect("room in the window");
    let mut said = BufReader::new(child.stdout.take().expect("a piped stdout"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a result");
    assert!(line.starts_with("LINE "), "{line:?}");
    stuck.process.thaw();
    drop(stdin);
    said.read_to_string(&mut line).expect("text");
    assert_eq!(
        (
            child.wait().expect("its end").success(),
            line.lines().count()
        ),
        (true, 2000)
    );
}

#[test]
fn failures_are_reported_by_number_beside_results() {
    let world = World::new();
    let server = world.server_of("text", "");
    let outcome = world.job(&["text.shout"], b"a\n\xff\nb\nc\xfe\nd\n");
    let errors: Vec<_> = outcome.stderr.lines().collect();
    let [first, second, sum] = errors[..] else {
        panic!("{errors:?}")
    };
    for (line, idx) in [(first, 1), (second, 3)] {
        assert!(
            line.starts_with(&format!("palm-cli: message {idx}: failed at stage 0: ")),
            "{line}"
        );
        assert!(
            line.ends_with(&format!("(server {})", server.uuid)),
            "{line}"
        );
    }
    assert_eq!(sum, "palm-cli: 2 of 5 messages failed");
    assert_eq!(outcome.text(1), "A\nB\nD\n");

    // What cannot be sent is refused for itself, and read no further than that takes.
    let long = [&b"a\n"[..], &vec![b'x'; 3_000_000], b"\nb\n"].concat();
    let outcome = world.cli_with(
        &["job", "text.shout"],
        &[("PALM_MAX_PAYLOAD", "1000000")],
        &long,
    );
    let words = &outcome.stderr;
    assert!(
        words.contains("palm-cli: message 1: too_large at stage 0: "),
        "{words}, {} B",
        outcome.stdout.len()
    );
    assert_eq!(outcome.text(1), "A\nB\n");
    // More than a server's other limits are by default, which are no matter of palm-cli's.
    let outcome = world.cli_with(
        &["job", "text.shout"],
        &[("PALM_MAX_PAYLOAD", "500000000")],
        b"a\n",
    );
    assert_eq!(outcome.text(0), "A\n");
}

#[test]
fn unknown_functions_are_reported_before_any_input() {
    let world = World::new();
    let _server = world.server_of("text", "");
    for (pipeline, kind, what_exists) in [
        ("printf.printf", "no_such_server", "text"),
        ("text.shout,text.whisper", "no_such_function", "count"),
        ("text", "bad_message", "server.function"),
        ("text.shout,", "bad_message", "server.function"),
        ("", "bad_message", "server.function"),
    ] {
        // Its input never comes and never ends: who reads it does not end either.
        let (child, stdin) = world.start_job(&[pipeline]);
        let output = child.wait_with_output().expect("its output");
        drop(stdin);
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(1), 0),
            "{words}"
        );
        assert!(
            words.contains(kind) && words.contains(what_exists),
            "{words}"
        );
    }
    world
        .job(&["text.shout", "--timeout", "soon"], b"")
        .failed(2);
    world.job(&["text.shout", "--window", "0"], b"").failed(2);
}

#[test]
fn results_are_printed_while_the_input_is_open() {
    let world = World::new();
    let _server = world.server_of("text", "");
    let (mut child, mut stdin) = world.start_job(&["text.shout"]);
    let mut said = BufReader::new(child.stdout.take().expect("a piped stdout"));
    for _ in 0..3 {
        let mut line = String::new();
        stdin.write_all(b"hello\n").expect("it reads");
        said.read_line(&mut line).expect("a result");
        assert_eq!(line, "HELLO\n");
    }
    drop(stdin);
    assert!(child.wait().expect("its end").success());
}

/// Writes without an end and counts what was taken.
fn feed_endlessly(mut stdin: ChildStdin) -> (Arc<AtomicUsize>, thread::JoinHandle<()>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let feeding = thread::spawn(move || {
        // Who has enough closes it.
        while stdin.write_all(b"hello\n").is_ok() {
            counter.fetch_add(6, Ordering::Relaxed);
        }
    });
    (taken, feeding)
}

#[test]
fn an_endless_input_is_read_up_to_the_window() {
    let world = World::new();
    let server = world.server_of("text", "");
    server.process.freeze();
    let (child, stdin) = world.start_job(&["text.shout", "--window", "8", "--timeout", "25"]);
    let (taken, feeding) = feed_endlessly(stdin);
    // The pipe's own room and the reader's fill at once; then nothing more goes.
    let mut last = (usize::MAX, 0);
    eventually("the input stands still", SOON, || {
        thread::sleep(std::time::Duration::from_millis(100));
        let now = taken.load(Ordering::Relaxed);
        last = if now == last.0 && now > 0 {
            (now, last.1 + 1)
        } else {
            (now, 0)
        };
        (last.1 == 5).then_some(())
    });
    assert!(
        last.0 < 1_000_000,
        "{} bytes were taken although nothing was done with them",
        last.0
    );
    server.process.thaw();

    // Who reads the results has enough after some, as `head` does: that is a quiet end.
    let mut child = child;
    let mut said = BufReader::new(child.stdout.take().expect("a piped stdout"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a result");
    assert_eq!(line, "HELLO\n");
    drop(said);
    let output = child.wait_with_output().expect("its output");
    feeding.join().expect("the input is closed");
    assert_eq!(
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).as_ref()
        ),
        (Some(0), "")
    );
}

#[test]
fn an_unreadable_input_is_reported() {
    let world = World::new();
    let _server = world.server_of("text", "");
    let mut command = bounded(binary("palm-cli"));
    command
        .args(["job", "text.shout"])
        .env("PALM_ETCD", world.etcd.endpoint());
    let folder = std::fs::File::open("/").expect("a folder");
    let output = command.stdin(folder).output().expect("its output");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        words.starts_with("palm-cli: cannot read standard input: "),
        "{words}"
    );
    assert_eq!(output.status.code(), Some(1));
}
