//! The behaviour on a terminal, which script(1) provides.

use super::world::{Outcome, SOON, World, record, run};
use palm_tests::{Terminal, binary};

/// Runs palm-cli on a terminal of this many columns, on which a person types `input`.
fn on_terminal(
    world: &World,
    columns: usize,
    args: &str,
    env: &[(&str, &str)],
    input: &str,
) -> Outcome {
    let cli = binary("palm-cli");
    let cli = cli.to_str().expect("a path that is text");
    let line = format!(
        "stty cols {columns}; '{cli}' --etcd {} {args}",
        world.etcd.endpoint()
    );
    let env: Vec<_> = [("TERM", "xterm"), ("SHELL", "/bin/sh")]
        .iter()
        .chain(env)
        .copied()
        .collect();
    run(
        "script",
        &["-qec", &line, "/dev/null"],
        &env,
        input.as_bytes(),
    )
}

#[test]
fn a_terminal_gets_colour_unless_turned_off() {
    let world = World::new();
    let server = world.server();
    let colored = on_terminal(&world, 300, "status", &[], "").text(0);
    assert!(
        colored.contains("\u{1b}[1;32mleader\u{1b}[0m"),
        "{colored:?}"
    );
    for env in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = on_terminal(&world, 300, "status", &[env], "").text(0);
        assert!(
            plain.contains(&server.uuid) && !plain.contains('\u{1b}'),
            "{plain:?}"
        );
    }
    let piped = world
        .cli_with(&["status"], &[("TERM", "xterm")], b"")
        .done();
    assert!(!piped.contains('\u{1b}'), "{piped:?}");
}

#[test]
fn the_table_fits_the_terminal() {
    let world = World::new();
    let server = world.server();
    let functions = format!("[{}]", vec![r#""function""#; 40].join(", "));
    let ghost = "abcd1111-0f5c-4278-bcc9-fa8caefadbb4";
    world.put(
        &format!("/servers/{ghost}"),
        &record(ghost, "").replace(r#"["f"]"#, &functions),
    );
    let on = |columns: usize, args: &str| {
        on_terminal(&world, columns, args, &[("NO_COLOR", "1")], "").text(0)
    };
    for columns in [40, 80, 120, 200] {
        let text = on(columns, "status");
        assert!(text.contains('…'), "{text}");
        assert!(
            text.lines()
                .all(|line| line.trim_end().chars().count() <= columns),
            "{text}"
        );
        assert_eq!(text.lines().count(), 4, "one line a server: {text}");
    }
    let short = on(80, "status");
    assert!(
        short.starts_with("SERVER  ID        ENDPOINT")
            && short.contains(&format!("printf  {}  127.0.0.1:", &server.uuid[..8]))
            && short.contains(&format!("; printf {} leads\r\n", &server.uuid[..8])),
        "{short}"
    );
    assert!(
        !short.contains(&server.uuid) && !short.contains("_ping"),
        "{short}"
    );
    let pid = format!(" {} ", server.process.pid());
    for text in [on(200, "status"), on(80, "status --wide")] {
        assert!(
            text.contains(&server.uuid) && text.contains(" registered ") && text.contains(&pid),
            "{text}"
        );
    }
    world.etcd.etcdctl(&["del", &format!("/servers/{ghost}")]);
    for text in [on(300, "status"), on(80, "status --wide")] {
        assert!(text.contains("append,delete"), "{text}");
    }
}

#[test]
fn an_invalid_record_cannot_control_the_terminal() {
    let world = World::new();
    world.put("/servers/nasty", "\u{1b}[2Jboo");
    for args in ["status", "status nasty", "status --json"] {
        let text = on_terminal(&world, 120, args, &[("NO_COLOR", "1")], "").text(0);
        assert!(!text.contains('\u{1b}'), "{args}: {text:?}");
    }
}

#[test]
fn an_answer_on_a_terminal_ends_its_line() {
    let world = World::new();
    let _server = world.server();
    assert_eq!(
        on_terminal(&world, 120, "call printf.printf hello", &[], "").text(0),
        "hello\r\n"
    );
}

#[test]
fn a_reset_asks_and_accepts_no() {
    let world = World::new();
    let server = world.server();
    for answer in ["n\n", "\n", "what?\n"] {
        let said = on_terminal(&world, 120, "reset", &[], answer).text(1);
        assert!(
            said.contains("with 1 server? [y/N] ") && said.contains("nothing was changed"),
            "{said}"
        );
        assert_eq!(world.stored("/reset"), "");
    }
    let said = on_terminal(&world, 120, "reset", &[], "y\n").text(0);
    assert!(said.contains("1 of 1 server came back within"), "{said}");
    world.await_configured("", &server.uuid);
}

#[test]
fn a_job_on_a_terminal_shows_its_progress() {
    let world = World::new();
    let _server = world.server_of("text", "");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "to be\n".repeat(2000)).expect("it can be written");
    let path = file.path().display();
    let said = on_terminal(
        &world,
        120,
        &format!("job text.shout < {path} > /dev/null"),
        &[],
        "",
    )
    .text(0);
    assert!(
        said.contains("[====================] 100% 2000 done, "),
        "{said:?}"
    );
    // Of a pipe the end is not known; the results come to the same terminal, each in a
    // line of its own.
    let said = on_terminal(
        &world,
        120,
        &format!("job text.shout,text.count < {path} | sort -u"),
        &[],
        "",
    )
    .text(0);
    assert!(said.contains("2\r\n"), "{said:?}");
    let cli = binary("palm-cli");
    let piped = format!(
        "status > /dev/null; cat {path} | '{}' --etcd {} job text.shout",
        cli.display(),
        world.etcd.endpoint()
    );
    let said = on_terminal(&world, 120, &piped, &[], "").text(0);
    assert!(
        said.contains(" 2000 done, ") && !said.contains('%') && !said.contains(" left"),
        "{said:?}"
    );
    assert_eq!(said.matches("TO BE\r\n").count(), 2000, "{said:?}");
    let dumb = [("TERM", "dumb")];
    assert_eq!(
        on_terminal(
            &world,
            120,
            &format!("job text.shout < {path} > /dev/null"),
            &dumb,
            ""
        )
        .text(0),
        ""
    );
}

#[test]
fn a_long_job_tells_its_rate_and_what_is_left() {
    let world = World::new();
    let sleepy = world.server_of("sleepy", "");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "0.2\n".repeat(1000)).expect("it can be written");
    let line = format!(
        "exec '{}' --etcd {} job sleepy.wait --window 4 < {} > /dev/null",
        binary("palm-cli").display(),
        world.etcd.endpoint(),
        file.path().display()
    );
    let job = Terminal::start((80, 5), "bash", ["-c", &line], &[]);
    let bar = job.wait_for("an estimate", SOON, |rows| {
        rows.iter().find(|row| row.ends_with(" left")).cloned()
    });
    for part in ["] ", "% ", " done, ", " in flight, ", "/s, ", "s, about "] {
        assert!(bar.contains(part), "{part}: {bar}");
    }
    job.terminate();
    job.wait(SOON);
    drop(sleepy);
}
