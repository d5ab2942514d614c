//! The exit statuses of palm-cli, and its messages.

use super::world::{World, run};
use palm_tests::{Etcd, Proxy, binary, free_port};
use std::{
    thread,
    time::{Duration, Instant},
};

/// The 5 s within which an unreachable etcd must be reported, and what a busy machine adds.
const TOLD_WITHIN: Duration = Duration::from_millis(5900);

const COMMANDS: [&[&str]; 4] = [
    &["status"],
    &["rm", "abcd1234"],
    &["reset", "--yes"],
    &["call", "a.b", "x"],
];

/// Each command must say that none of these endpoints answers.
#[track_caller]
fn unreachable(endpoints: &[String]) {
    let list = endpoints.join(",");
    for command in COMMANDS {
        let began = Instant::now();
        let words = run(
            binary("palm-cli"),
            &[&["--etcd", &list], command].concat(),
            &[],
            b"",
        )
        .failed(3);
        let took = began.elapsed();
        assert!(took < TOLD_WITHIN, "{command:?} took {took:?}");
        assert!(
            endpoints.iter().all(|endpoint| words.contains(endpoint)),
            "{command:?}: {words}"
        );
    }
}

#[test]
fn an_etcd_that_refuses_connections_is_unreachable() {
    unreachable(&[format!("http://127.0.0.1:{}", free_port())]);
    unreachable(&[(); 3].map(|()| format!("http://127.0.0.1:{}", free_port())));
}

#[test]
fn an_etcd_that_is_frozen_is_unreachable() {
    let etcd = Etcd::start();
    etcd.freeze();
    unreachable(&[etcd.endpoint()]);
    etcd.thaw();
}

#[test]
fn three_members_that_are_silent_are_unreachable() {
    let etcd = Etcd::start();
    let proxies = [(); 3].map(|()| Proxy::start(etcd.address()));
    for proxy in &proxies {
        proxy.stall();
    }
    unreachable(&proxies.each_ref().map(Proxy::endpoint));
}

#[test]
fn one_member_of_four_that_answers_is_enough() {
    let world = World::new();
    let server = world.server();
    let silent = [(); 3].map(|()| Proxy::start(world.etcd.address()));
    for proxy in &silent {
        proxy.stall();
    }
    let etcd = silent
        .iter()
        .map(Proxy::endpoint)
        .chain([world.etcd.endpoint()])
        .collect::<Vec<_>>()
        .join(",");
    // Each begins at a member of its own choice; several, so that some ask the one
    // that answers last.
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                assert!(
                    world
                        .cli(&["--etcd", &etcd, "status"])
                        .done()
                        .contains(&server.uuid)
                );
            });
        }
        scope.spawn(|| {
            assert_eq!(
                world
                    .cli(&["--etcd", &etcd, "call", "printf.printf", "x"])
                    .done(),
                "x"
            );
        });
    });
}

#[test]
fn a_rejection_by_etcd_is_reported_at_once() {
    let world = World::new();
    world.etcd.etcdctl(&["user", "add", "root:secret"]);
    world.etcd.etcdctl(&["user", "grant-role", "root", "root"]);
    world.etcd.etcdctl(&["auth", "enable"]);
    for command in COMMANDS {
        for user in [&[][..], &["--user", "root:wrong"]] {
            let began = Instant::now();
            let words = world.cli(&[user, command].concat()).failed(1);
            assert!(
                words.contains("denied") && !words.contains("wrong;"),
                "{command:?}: {words}"
            );
            assert!(
                began.elapsed() < Duration::from_millis(3500),
                "{command:?} took {:?}",
                began.elapsed()
            );
        }
    }
    assert_eq!(
        world
            .cli_with(&["status"], &[("PALM_USER", "root:secret")], b"")
            .done(),
        "No servers in the mesh\n"
    );
    assert_eq!(
        world.cli(&["status", "--user=root:secret"]).done(),
        "No servers in the mesh\n"
    );
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let nowhere = [("PALM_ETCD", "http://127.0.0.1:1")];
    for args in [
        &[][..],
        &["stat"],
        &["status", "--colour"],
        &["status", "--json", "--watch"],
        &["rm"],
        &["reset"],
        &["call"],
        &["--etcd", "127.0.0.1", "status"],
        &["--prefix", "staging", "status"],
        &[
            "--cacert",
            "/nowhere.pem",
            "--etcd",
            "https://127.0.0.1:1",
            "status",
        ],
        &["--cert", "/nowhere.pem", "status"],
    ] {
        run(binary("palm-cli"), args, &nowhere, b"").failed(2);
    }
    let words = run(binary("palm-cli"), &["status"], &[("PALM_ETCD", "x")], b"").failed(2);
    assert!(
        words.contains("PALM_ETCD") || words.contains("etcd: "),
        "{words}"
    );
    for args in [&["--help"][..], &["status", "--help"], &["help"]] {
        assert!(
            run(binary("palm-cli"), args, &nowhere, b"")
                .done()
                .contains("Usage: palm-cli"),
            "{args:?}"
        );
    }
}

#[test]
fn errors_suggest_what_was_meant() {
    let nowhere = [("PALM_ETCD", "http://127.0.0.1:1")];
    for (args, words) in [
        (
            &["stauts"][..],
            "unknown command stauts (did you mean status?); there are status, rm, ",
        ),
        (
            &["status", "--wacht"],
            "unknown option --wacht of status (did you mean --watch?)",
        ),
        (
            &["call", "text.shout", "-5"],
            "unknown option -5; a payload that begins with a dash goes after --",
        ),
        (
            &["call", "a.b", "--timeout", "2x"],
            "--timeout: \"2x\" is not a time such as 2.5",
        ),
    ] {
        let said = run(binary("palm-cli"), args, &nowhere, b"").failed(2);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    for args in [["--version"], ["-V"]] {
        let said = run(binary("palm-cli"), &args, &nowhere, b"").done();
        assert_eq!(said, concat!("palm-cli ", env!("CARGO_PKG_VERSION"), "\n"));
    }
    let help = run(binary("palm-cli"), &["call", "-h"], &nowhere, b"").done();
    for part in ["Usage: palm-cli call", "--timeout", "--etcd ", "--version"] {
        assert!(help.contains(part), "{part}: {help}");
    }
}

#[test]
fn etcd_is_found_as_etcdctl_finds_it() {
    let world = World::new();
    let server = world.server();
    let address = world.etcd.endpoint().replace("http://", "");
    let cli = |args: &[&str], env: &[(&str, &str)]| run(binary("palm-cli"), args, env, b"");
    for said in [
        cli(&["--etcd", &address, "status"], &[]),
        cli(&["status"], &[("PALM_ETCD", &address)]),
        cli(&["status"], &[("ETCDCTL_ENDPOINTS", &address)]),
        cli(
            &["status"],
            &[
                ("ETCDCTL_ENDPOINTS", "http://127.0.0.1:1"),
                ("PALM_ETCD", &address),
            ],
        ),
    ] {
        assert!(said.done().contains(&server.uuid));
    }
    // A server joins by it as well, and a call takes a time with its unit.
    let text = palm_tests::Process::start(
        palm_tests::example("text"),
        [
            "run",
            "--etcd",
            &address,
            "--probe-period",
            "500ms",
            "--probe-timeout",
            "200ms",
        ],
    );
    text.wait_for_line(|line| line.contains("joined as"), super::world::SOON);
    let said = cli(
        &["call", "printf.printf", "x", "--timeout", "20s"],
        &[("ETCDCTL_ENDPOINTS", &address)],
    );
    assert_eq!(said.done(), "x");
    // As `etcdctl` without a password, which would ask for it.
    let said = cli(
        &["status"],
        &[("ETCDCTL_ENDPOINTS", &address), ("ETCDCTL_USER", "root")],
    );
    assert!(
        said.code == Some(0) && said.stderr.contains("ETCDCTL_USER has no password"),
        "{said:?}"
    );
}

#[test]
fn the_help_of_a_server_may_be_cut_off() {
    for (server, args) in [("text", "--help"), ("printf", "run --help")] {
        let line = format!(
            "set -o pipefail; (sleep 0.2; exec '{}' {args}) | true",
            palm_tests::example(server).display()
        );
        run("bash", &["-c", &line], &[], b"").done();
    }
    let text = palm_tests::example("text");
    assert_eq!(run(&text, &["run", "--colour"], &[], b"").code, Some(2));
}

#[test]
fn settings_of_servers_are_ignored() {
    let world = World::new();
    let env = [("PALM_IP", "db.local"), ("PALM_PROBE_TIMEOUT", "60")];
    assert_eq!(
        world.cli_with(&["status"], &env, b"").done(),
        "No servers in the mesh\n"
    );
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let world = World::new();
    let uuid = "abcd1111-0f5c-4278-bcc9-fa8caefadbb4";
    world.put_record(uuid, &format!(r#", "x": "{}""#, "y".repeat(200 * 1024)));
    let cli = binary("palm-cli");
    let cli = cli.to_str().expect("a path that is text");
    for args in ["status --json", "status abcd", "status", "--help"] {
        let line = format!(
            "set -o pipefail; '{cli}' --etcd {} {args} | head -c 1",
            world.etcd.endpoint()
        );
        assert_eq!(
            run("bash", &["-c", &line], &[], b"").done().len(),
            1,
            "{args}"
        );
        let line = format!("'{cli}' --etcd {} {args} >/dev/full", world.etcd.endpoint());
        assert!(
            run("bash", &["-c", &line], &[], b"")
                .failed(1)
                .contains("cannot write"),
            "{args}"
        );
    }
}
