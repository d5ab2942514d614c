//! Config are taken as they are meant, or refused by name with status 2.

use super::SOON;
use palm_tests::{Etcd, Process, binary, eventually, example};
use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

/// A program that must end with status 2 and this line.
#[track_caller]
fn refused(process: &Process, words: &str) {
    assert_eq!(
        process.wait(SOON).code(),
        Some(2),
        "{words}: {:?}",
        process.lines()
    );
    let said = process.lines().join("\n");
    assert!(said.contains(words), "{words}: {said}");
}

#[test]
fn invalid_settings_are_refused_by_name() {
    for (flags, words) in [
        (
            &["--etcd", "http://127.0.0.1:2379/etcd"][..],
            "--etcd: \"http://127.0.0.1:2379/etcd\" has \"/etcd\"",
        ),
        (
            &["--etcd", "http://127.0.0.1:2379?x=1"],
            "--etcd: \"http://127.0.0.1:2379?x=1\" has \"?x=1\"",
        ),
        (&["--etcd", "http://127.0.0.1:99999"], "the port \"99999\""),
        (&["--etcd", "http://127.0.0.1:abc"], "the port \"abc\""),
        (&["--etcd", "http://a:1,"], "a comma too many"),
        (&["--etcd", "unix:///run/etcd"], "Unix socket"),
        (
            &["--cacert", ""],
            "--cacert: \"\" is not the path of a file",
        ),
        (
            &["--user", "root:secret\n"],
            "--user: it contains a line break",
        ),
    ] {
        refused(
            &Process::start(example("printf"), [&["run"], flags].concat()),
            words,
        );
        refused(
            &Process::start(binary("palm-cli"), [&["status"], flags].concat()),
            words,
        );
    }
    for (flags, words) in [
        (
            &["--ip", "localhost:5555", "--bind", "127.0.0.1"][..],
            "--ip: \"localhost:5555\" is not a host",
        ),
        (
            &["--ip", "fe80::1%lo"],
            "--ip: \"fe80::1%lo\" is not a host",
        ),
        (
            &["--bind", "127.0.0.1:5555"],
            "--bind: \"127.0.0.1:5555\" is not an IP address alone",
        ),
        (&["--port", "65536"], "--port: \"65536\" is not a port"),
        (
            &["--ttl", "1e308"],
            "--ttl: \"1e308\" is longer than 24 hours",
        ),
        (
            &["--probe-period", "NaN"],
            "--probe-period: \"NaN\" is not a time",
        ),
        (&["--prefix", "/a\u{7}"], "prefix: "),
    ] {
        refused(
            &Process::start(example("printf"), [&["run"], flags].concat()),
            words,
        );
    }
}

#[test]
fn variables_that_are_not_utf8_are_refused_by_name() {
    let odd = OsString::from_vec(b"/x\xff".to_vec());
    for variable in ["PALM_ETCD", "PALM_PREFIX", "PALM_USER", "PALM_TTL"] {
        let words = format!("{variable}: the value is not valid UTF-8");
        refused(
            &Process::builder(example("printf"))
                .arg("run")
                .env(variable, &odd)
                .start(),
            &words,
        );
        refused(
            &Process::builder(binary("palm-cli"))
                .arg("status")
                .env(variable, &odd)
                .start(),
            &words,
        );
    }
    refused(
        &Process::builder(example("printf"))
            .arg("run")
            .env("PALM_LOG", &odd)
            .start(),
        "PALM_LOG: ",
    );
}

#[test]
fn urls_and_hosts_are_normalised() {
    let etcd = Etcd::start();
    let url = etcd.endpoint().replace("http://", "HTTP://") + "/";
    let server = Process::start(example("printf"), ["run", "--etcd", &url, "--ip", "[::1]"]);
    let (line, _) = server.wait_for_line(|line| line.contains("joined as"), SOON);
    assert!(line.contains(" at tcp://[::1]:"), "{line}");
    server.wait_for_line(|line| line.ends_with(" configured"), SOON);
    let status = Process::start(binary("palm-cli"), ["--etcd", &url, "status"]);
    assert!(status.wait(SOON).success(), "{:?}", status.lines());
}

#[test]
fn a_password_may_end_with_a_space() {
    let etcd = Etcd::start();
    etcd.etcdctl(&["user", "add", "root:secret "]);
    etcd.etcdctl(&["user", "grant-role", "root", "root"]);
    etcd.etcdctl(&["auth", "enable"]);
    let by_variable = Process::builder(example("printf"))
        .args(["run", "--etcd", &etcd.endpoint()])
        .env("PALM_USER", "root:secret ");
    by_variable
        .start()
        .wait_for_line(|line| line.contains("joined as"), SOON);
    let by_flag = [
        "--etcd",
        &etcd.endpoint(),
        "--user",
        "root:secret ",
        "status",
    ];
    eventually("palm-cli gets in", SOON, || {
        Process::start(binary("palm-cli"), by_flag)
            .wait(SOON)
            .success()
            .then_some(())
    });
    let trimmed = [
        "--etcd",
        &etcd.endpoint(),
        "--user",
        "root:secret",
        "status",
    ];
    assert_eq!(
        Process::start(binary("palm-cli"), trimmed)
            .wait(SOON)
            .code(),
        Some(1)
    );
}

#[test]
fn a_misspelt_variable_causes_a_warning() {
    let etcd = Etcd::start();
    let words = "the variable PALM_PROBE_PERIODE has no effect: did you mean PALM_PROBE_PERIOD?";
    let server = Process::builder(example("printf"))
        .args(["run", "--etcd", &etcd.endpoint()])
        .env("PALM_PROBE_PERIODE", "1")
        .start();
    server.wait_for_line(
        |line| line.starts_with("WARNING:") && line.ends_with(words),
        SOON,
    );
    let status = Process::builder(binary("palm-cli"))
        .args(["--etcd", &etcd.endpoint(), "status"])
        .env("PALM_PROBE_PERIODE", "1")
        .start();
    assert!(status.wait(SOON).success());
    assert!(
        status.lines().contains(&format!("palm-cli: {words}")),
        "{:?}",
        status.lines()
    );
}
