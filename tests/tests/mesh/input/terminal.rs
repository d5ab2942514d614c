//! What palm-cli does when its output, its terminal or its time is taken away.

use super::SOON;
use palm_tests::{Etcd, Process, binary, eventually, example};
use std::{
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

/// A line for the shell, with `palm-cli` for the program on this etcd.
fn shell(etcd: &Etcd, line: &str) -> Process {
    let program = format!(
        "'{}' --etcd {}",
        binary("palm-cli").display(),
        etcd.endpoint()
    );
    Process::builder("bash")
        .args(["-c", &line.replace("palm-cli", &program)])
        .env("TERM", "xterm")
        .start()
}

fn server(etcd: &Etcd) -> Process {
    let server = Process::start(example("text"), ["run", "--etcd", &etcd.endpoint()]);
    server.wait_for_line(|line| line.ends_with(" configured"), SOON);
    server
}

#[test]
fn a_closed_output_ends_palm_cli_before_the_next_line() {
    let etcd = Etcd::start();
    let _server = server(&etcd);
    eventually("the server can be called", SOON, || {
        shell(&etcd, "palm-cli call text.shout x")
            .wait(SOON)
            .success()
            .then_some(())
    });
    for (line, first) in [
        ("palm-cli status --watch | head -n 1", "UUID"),
        // One line, and then an input that is silent for longer than the test waits.
        (
            "set -o pipefail; exec 3< <(echo one; exec sleep 300); \
             palm-cli job text.shout <&3 | head -n 1; status=$?; kill $!; exit $status",
            "ONE",
        ),
    ] {
        let began = Instant::now();
        let process = shell(&etcd, line);
        assert!(
            process.wait(SOON).success(),
            "{line}: {:?}",
            process.lines()
        );
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{line}: {:?}",
            began.elapsed()
        );
        assert!(
            process.lines()[0].starts_with(first),
            "{line}: {:?}",
            process.lines()
        );
    }
}

#[test]
fn a_watch_leaves_the_scrollback_alone() {
    let etcd = Etcd::start();
    let program = format!(
        "'{}' --etcd {} status --watch",
        binary("palm-cli").display(),
        etcd.endpoint()
    );
    // script(1) plays the terminal.
    let line = format!("stty rows 5; echo before; exec {program}");
    let watch = Process::builder("script")
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "xterm")
        .start();
    watch.wait_for_line(|line| line.contains("No servers in the mesh"), SOON);
    let _server = server(&etcd);
    watch.wait_for_line(|line| line.contains(" leads"), SOON);
    let said = watch.lines().join("\n");
    assert!(
        said.contains("\u{1b}[H\u{1b}[J"),
        "in place of the last picture: {said:?}"
    );
    assert!(
        !said.contains("\u{1b}[3J") && !said.contains("\u{1b}[2J"),
        "{said:?}"
    );
    // What was on the screen was scrolled up before it was drawn over.
    let (before, _) = said.split_once("\u{1b}[H").expect("a first picture");
    let newlines = before
        .split_once("before")
        .expect("what the terminal showed")
        .1
        .matches('\n')
        .count();
    assert!(newlines >= 5, "{before:?}");
}

#[test]
fn a_signal_ends_palm_cli_in_every_wait() {
    let etcd = Etcd::start();
    let server = Process::start(example("sleepy"), ["run", "--etcd", &etcd.endpoint()]);
    server.wait_for_line(|line| line.ends_with(" configured"), SOON);
    let start = |args: &[&str]| {
        Process::builder(binary("palm-cli"))
            .args(["--etcd", &etcd.endpoint()])
            .args(args)
            .start()
    };
    let waiting = || {
        let mark = server.mark();
        let call = start(&["call", "sleepy.wait", "60"]);
        server.wait_for_line_after(mark, |line| line.ends_with(":waiting"), SOON);
        call
    };
    let watching = || {
        let watch = start(&["status", "--watch"]);
        watch.wait_for_line(|line| line.contains(" leads"), SOON);
        watch
    };
    let what: [(&str, &dyn Fn() -> Process); 2] =
        [("call", &waiting), ("status --watch", &watching)];
    for (name, start) in what {
        // As the shell says it, 128 more: 130 and 143.
        for (signal, number) in [
            (Process::interrupt as fn(&Process), 2),
            (Process::terminate, 15),
        ] {
            let process = start();
            signal(&process);
            assert_eq!(
                process.wait(SOON).signal(),
                Some(number),
                "{name}: {:?}",
                process.lines()
            );
        }
    }
}

#[test]
fn unwritable_output_is_an_error() {
    let etcd = Etcd::start();
    let _server = server(&etcd);
    for line in [
        "status",
        "status --json",
        "--help",
        "status --watch",
        "call text.shout hello",
    ] {
        let process = shell(&etcd, &format!("palm-cli {line} > /dev/full"));
        assert_eq!(
            process.wait(SOON).code(),
            Some(1),
            "{line}: {:?}",
            process.lines()
        );
        assert!(
            process
                .lines()
                .join("\n")
                .contains("cannot write to standard output"),
            "{line}"
        );
    }
}
