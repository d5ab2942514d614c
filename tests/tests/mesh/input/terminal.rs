//! What palm-cli does when its output, its terminal or its time is taken away.

use super::SOON;
use palm_tests::{Etcd, Process, Terminal, binary, eventually, example};
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

/// A watch on a terminal that showed `before`.
fn watch(etcd: &Etcd, size: (u16, u16), args: &str) -> Terminal {
    let line = format!(
        "echo before; exec '{}' --etcd {} status --watch {args}",
        binary("palm-cli").display(),
        etcd.endpoint()
    );
    Terminal::start(size, "bash", ["-c", &line], &[])
}

#[test]
fn a_watch_leaves_the_scrollback_alone() {
    type Ending = fn(&Terminal);
    let etcd = Etcd::start();
    let endings: [(&str, Ending, Option<i32>); 5] = [
        ("q", |watch| watch.type_keys("q"), None),
        ("escape", |watch| watch.type_keys("\u{1b}"), None),
        ("ctrl-c", |watch| watch.type_keys("\u{3}"), Some(2)),
        ("SIGTERM", Terminal::terminate, Some(15)),
        ("SIGHUP", Terminal::hang_up, Some(1)),
    ];
    for (name, end, signal) in endings {
        let watch = watch(&etcd, (80, 5), "");
        watch.wait_for("an empty mesh", SOON, |rows| {
            rows.iter()
                .any(|row| row == "No servers in the mesh")
                .then_some(())
        });
        assert!(watch.is_alternate() && !watch.has_cursor(), "{name}");
        end(&watch);
        assert_eq!(watch.wait(SOON).signal(), signal, "{name}");
        assert!(!watch.is_alternate() && watch.has_cursor(), "{name}");
        assert_eq!(watch.rows()[..2], ["before", ""], "{name}");
        let written = watch.written();
        assert!(!written.contains("\u{1b}[3J"), "{name}: {written:?}");
    }
}

#[test]
fn a_watch_on_a_terminal_is_alive() {
    let etcd = Etcd::start();
    let (narrow, wide) = (watch(&etcd, (80, 8), ""), watch(&etcd, (200, 8), ""));
    let text = server(&etcd);
    // The age of the server and the clock move while nothing changes.
    for (watch, pos) in [(&narrow, 3), (&wide, 5)] {
        let cells = |rows: &[String], pos: usize| {
            let row = rows.iter().find(|row| row.contains(" leader "))?;
            let age = row.split_whitespace().nth(pos)?.to_owned();
            Some((rows[0].split_once(' ')?.0.to_owned(), age))
        };
        let first = watch.wait_for("the server", SOON, |rows| cells(rows, pos));
        let (clock, age) = watch.wait_for("its age moves", SOON, |rows| {
            cells(rows, pos).filter(|next| next.0 != first.0 && next.1 != first.1)
        });
        assert!(clock.len() == 8 && age.ends_with('s'), "{clock} {age}");
    }
    let rows = narrow.rows();
    assert!(
        rows[1].starts_with("SERVER  ID        ENDPOINT") && rows[2].starts_with("text "),
        "{rows:#?}"
    );
    let rows = wide.rows();
    assert!(
        rows[1].starts_with("UUID ") && rows[2].ends_with(",delete"),
        "{rows:#?}"
    );
    // A terminal that gets wider shows more.
    narrow.resize(200, 8);
    narrow.wait_for("whole uuids", SOON, |rows| {
        rows[1].starts_with("UUID ").then_some(())
    });
    // More servers than rows: the headings stay, and the keys move the rest.
    for n in 0..8 {
        let key = format!("/servers/ghost{n:02}");
        etcd.etcdctl(&["put", &key, "no record"]);
    }
    wide.wait_for("a part of the servers", SOON, |rows| {
        rows.iter()
            .any(|row| row.starts_with("1 to 5 of 9; 1 server of 1 name"))
            .then_some(())
    });
    wide.type_keys("\u{1b}[F");
    wide.wait_for("the last servers", SOON, |rows| {
        (rows[1].starts_with("UUID ") && rows[6].starts_with("ghost07 ")).then_some(())
    });
    drop(text);
    // What is known may be old: that is said there, and not over the picture.
    etcd.stop();
    wide.wait_for("a warning", SOON, |rows| {
        rows[0]
            .contains("UTC  may be out of date for ")
            .then_some(())
    });
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
