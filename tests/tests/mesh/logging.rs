//! A log that cannot be written costs lines, and nothing else: no server, no call, no
//! duty of the leader.

use crate::common::{Mesh, QUICK, SOON};
use futures::executor::block_on;
use palm_peer::{
    Client,
    logging::{LogLine, LogPage},
};
use palm_tests::{Etcd, Process, binary, eventually, example};
use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Starts `printf` with stderr at `path`, and waits until it is registered. Gives its uuid as well.
fn start_with_stderr(mesh: &Mesh<'_>, etcd: &Etcd, path: &Path) -> (Process, String) {
    let known = servers(mesh);
    let process = Process::builder("sh")
        .args([
            "-c",
            "exec \"$0\" run --etcd \"$1\" --ttl 3 --probe-period 2 --probe-timeout 1 2>\"$2\"",
        ])
        .arg(example("printf"))
        .args([etcd.endpoint()])
        .arg(path)
        .env("PALM_PREFIX", mesh.key(""))
        .start();
    let uuid = eventually("the server is registered", SOON, || {
        assert!(process.is_running(), "it ended: {:?}", process.wait(SOON));
        servers(mesh).into_iter().find(|uuid| !known.contains(uuid))
    });
    (process, uuid)
}

fn servers(mesh: &Mesh<'_>) -> Vec<String> {
    mesh.state()
        .into_keys()
        .filter_map(|key| key.strip_prefix("/servers/").map(str::to_owned))
        .collect()
}

fn call(client: &Client, target: &str, payload: impl Into<palm_peer::Bytes>) -> String {
    let answer =
        block_on(client.call(target, payload).timeout(SOON).into_future()).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

fn fifo(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("stderr");
    assert!(Process::start("mkfifo", [&path]).wait(SOON).success());
    path
}

/// A reader that opens without waiting for a writer. While it is there, the writer's lines
/// find room or wait.
fn reader(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("opens")
}

#[test]
fn a_full_disk_behind_stderr_ends_no_server() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let (server, uuid) = start_with_stderr(&mesh, &etcd, Path::new("/dev/full"));
    mesh.await_published(&[&uuid]);
    let client = block_on(Client::connect(mesh.options())).expect("connects");
    assert_eq!(
        call(&client, "printf.printf", "logged by the function"),
        "logged by the function"
    );
    server.terminate();
    assert_eq!(server.wait(SOON).code(), Some(0));
    assert!(!mesh.is_registered(&uuid), "it left in an orderly way");
}

#[test]
fn a_leader_works_on_when_its_log_lost_its_reader() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let folder = TempDir::new().expect("a folder");
    let path = fifo(&folder);
    let reading = reader(&path);
    let (leader, uuid) = start_with_stderr(&mesh, &etcd, &path);
    mesh.await_published(&[&uuid]);
    let dying = mesh.start("text");
    mesh.await_published(&[&dying.uuid]);
    drop(reading);
    // A server that ends is taken out, a new one is configured, a function that logs answers.
    dying.kill();
    eventually("the dead server is removed", SOON, || {
        (!mesh.is_registered(&dying.uuid)).then_some(())
    });
    let new = mesh.start("text");
    mesh.await_published(&[&new.uuid]);
    mesh.await_lead(&uuid, SOON);
    let client = block_on(Client::connect(mesh.options())).expect("connects");
    assert_eq!(call(&client, &format!("{uuid}.printf"), "hello"), "hello");
    // With another reader, the log goes on, and says that lines are missing.
    let lines = BufReader::new(reader(&path)).lines();
    let told = thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .find(|line| line.contains("dropped because stderr"))
    });
    // Whatever is logged next brings the count with it.
    eventually("the number of dropped lines", SOON, || {
        call(&client, &format!("{uuid}.printf"), "again");
        told.is_finished().then_some(())
    });
    let told = told.join().expect("no panic").expect("a line");
    assert!(told.starts_with("WARNING:palm_peer::logging:"), "{told}");
    // The reader is gone once more: the server leaves as any other does.
    leader.terminate();
    assert_eq!(leader.wait(SOON).code(), Some(0));
    assert!(!mesh.is_registered(&uuid), "it left in an orderly way");
}

#[test]
fn a_removed_server_exits_with_77_despite_an_unwritable_log() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let folder = TempDir::new().expect("a folder");
    let path = fifo(&folder);
    let reading = reader(&path);
    let (server, uuid) = start_with_stderr(&mesh, &etcd, &path);
    mesh.await_published(&[&uuid]);
    drop(reading);
    let rm = Process::start(
        binary("palm-cli"),
        ["--etcd", &etcd.endpoint(), "--prefix", "/mesh", "rm", &uuid],
    );
    assert!(rm.wait(SOON).success(), "{:?}", rm.lines());
    assert_eq!(server.wait(SOON).code(), Some(77));
}

#[test]
fn an_unread_log_delays_no_call_and_counts_dropped_lines() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let folder = TempDir::new().expect("a folder");
    let path = fifo(&folder);
    // Open, and not read from.
    let stopped = reader(&path);
    let (server, uuid) = start_with_stderr(&mesh, &etcd, &path);
    mesh.await_published(&[&uuid]);
    let client = block_on(Client::connect(mesh.options())).expect("connects");
    // More than the pipe and the queue hold: 64 KiB and 8 MiB.
    let long = "x".repeat(256 * 1024);
    for _ in 0..48 {
        assert_eq!(
            call(&client, "printf.printf", long.clone()).len(),
            long.len()
        );
    }
    let dying = mesh.start("text");
    mesh.await_published(&[&dying.uuid]);
    dying.kill();
    eventually("the dead server is removed", SOON, || {
        (!mesh.is_registered(&dying.uuid)).then_some(())
    });
    let mut lines = BufReader::new(stopped).lines();
    let told = thread::spawn(move || {
        let told = lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains("dropped because stderr"));
        (told, lines)
    });
    eventually("the number of dropped lines", SOON, || {
        told.is_finished().then_some(())
    });
    let (told, _stopped_again) = told.join().expect("no panic");
    assert!(told.is_some_and(|line| line.starts_with("WARNING:palm_peer::logging:")));
    // When stderr is not read, the exit waits a second for the log, and no longer.
    for _ in 0..48 {
        call(&client, "printf.printf", long.clone());
    }
    let began = Instant::now();
    server.terminate();
    assert_eq!(server.wait(SOON).code(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn the_last_log_lines_are_written_before_exit() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    for (program, args) in [
        ("printf", &["run"][..]),
        ("printf_tokio", &[]),
        ("printf_smol", &[]),
    ] {
        let server = Process::builder(example(program))
            .args(args)
            .env("PALM_ETCD", etcd.endpoint())
            .env("PALM_PREFIX", mesh.key(""))
            .start();
        server.wait_for_line(|line| line.contains(" joined as "), SOON);
        server.terminate();
        assert_eq!(server.wait(SOON).code(), Some(0));
        assert!(
            server
                .lines()
                .iter()
                .any(|line| line.ends_with("left the mesh")),
            "{program}: {:?}",
            server.lines()
        );
    }
}

/// A server that has joined, with its log in the format that `PALM_LOG_FORMAT` names.
fn logged_in(format: &str) -> Vec<String> {
    let etcd = Etcd::start();
    let server = Process::builder(example("printf"))
        .args(["run", "--etcd", &etcd.endpoint()])
        .env("PALM_LOG_FORMAT", format)
        .start();
    server.wait_for_line(|line| line.contains(" joined as "), SOON);
    server.lines()
}

fn is_a_time(word: &str) -> bool {
    word.strip_suffix('Z')
        .is_some_and(|time| time.parse::<palm_peer::Timestamp>().is_ok())
}

#[test]
fn log_lines_carry_their_time_where_no_journal_adds_it() {
    for line in logged_in("auto") {
        let (time, line) = line.split_once(' ').expect("a time and a message");
        assert!(
            is_a_time(time) && line.starts_with("INFO:"),
            "{time} {line}"
        );
    }
}

#[test]
fn log_lines_can_be_json() {
    let lines = logged_in("json");
    for line in &lines {
        let fields: serde_json::Value = serde_json::from_str(line).expect(line);
        let text = |name: &str| fields[name].as_str().unwrap_or_default();
        assert!(is_a_time(text("time")), "{line}");
        assert_eq!(text("level"), "INFO", "{line}");
        assert!(
            text("target").starts_with("palm_peer") && text("place").contains(".rs/"),
            "{line}"
        );
        assert!(text("message").starts_with("server printf "), "{line}");
    }
    assert!(!lines.is_empty());
}

#[test]
fn a_log_format_that_does_not_exist_is_refused() {
    let server = Process::builder(example("printf"))
        .arg("run")
        .env("PALM_LOG_FORMAT", "xml")
        .start();
    assert_eq!(server.wait(SOON).code(), Some(2));
    assert_eq!(
        server.lines(),
        [r#"PALM_LOG_FORMAT: "xml" is none of auto, plain, time and json"#]
    );
}

#[test]
fn a_failing_function_is_logged_once_with_its_name_message_and_trace() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "", &QUICK);
    let server = mesh.start("text");
    mesh.await_published(&[&server.uuid]);
    let client = block_on(Client::connect(mesh.options())).expect("a client");
    for _ in 0..5 {
        let call = client.call("text.shout", vec![0xff]);
        let call = call.meta("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
        block_on(call.into_future()).expect_err("no UTF-8");
    }
    let lines = server.lines_with("text.shout answered failed: ");
    let [line] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        line.starts_with("WARNING:") && line.contains(" utf-8 ") && line.contains("(call "),
        "{line}"
    );
    assert!(line.ends_with(&format!(", trace {TRACE})")), "{line}");
}

/// A program with a subscriber of tracing of its own used to answer `_log_query` with nothing, and
/// the leader's digest of it was empty.
#[test]
fn a_program_with_its_own_tracing_subscriber_answers_log_queries() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let server = Process::builder(example("own_subscriber"))
        .env("PALM_ETCD", etcd.endpoint())
        .env("PALM_PREFIX", mesh.key(""))
        .start();
    let client = block_on(Client::connect(mesh.options())).expect("connects");
    block_on(client.wait_for("traced", 1, SOON)).expect("it can be called");
    assert_eq!(call(&client, "traced.say", "hello"), "hello");
    let page = call(&client, "traced._log_query", r#"{"since": 0}"#);
    let page: LogPage = serde_json::from_str(&page).expect("a page");
    let line = |message: &str| {
        let line = page.lines.iter().find(|line| line.message == message);
        line.unwrap_or_else(|| panic!("no {message:?} in {page:?}"))
    };
    let traced = line("by tracing: hello length=5");
    assert_eq!(
        (traced.level.as_str(), traced.target.as_str()),
        ("WARNING", "own_subscriber")
    );
    assert_eq!(line("by log: hello").target, "said");
    let has = |wanted: fn(&LogLine) -> bool| page.lines.iter().any(wanted);
    assert!(has(|line| line.target.starts_with("palm_peer")), "{page:?}");
    assert!(has(|line| line.target == "registry"), "{page:?}");
    // The older form, by which the leader makes its digest.
    let digest = call(&client, "traced._log_query", "WARNING");
    assert!(
        digest.contains("own_subscriber.rs/") && digest.contains("by log: hello"),
        "{digest}"
    );
    // Its own lines go where it sends them.
    server.wait_for_line(|line| line.contains("by tracing: hello"), SOON);
}
