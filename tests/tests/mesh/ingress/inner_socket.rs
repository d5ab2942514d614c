//! New connections are accepted whatever happens to the directories of sockets.

use super::{SOON, Server, call};
use palm_tests::{Process, eventually, example};
use std::{fs, process::Command, time::Duration};

/// Twenty new connections, each of which must be answered.
fn twenty_calls(server: &Server) {
    let answered = (0..20).filter(|_| call(server.address).is_ok()).count();
    assert_eq!(answered, 20, "of 20 new connections");
}

#[test]
fn the_runtime_directory_may_be_removed_at_run_time() {
    let root = tempfile::tempdir().expect("a directory");
    let runtime = root.path().join("run");
    fs::create_dir(&runtime).expect("made");
    let server = Server::start(&[("XDG_RUNTIME_DIR", runtime.to_str().expect("UTF-8"))]);
    let emptied = Command::new("sh")
        .args(["-c", "rm -rf \"$0\"/*"])
        .arg(&runtime)
        .status()
        .expect("a shell");
    assert!(emptied.success());
    twenty_calls(&server);
    fs::remove_dir_all(&runtime).expect("removed");
    twenty_calls(&server);
}

#[test]
fn a_killed_server_leaves_nothing_in_the_runtime_directory() {
    let root = tempfile::tempdir().expect("a directory");
    let server = Server::start(&[("XDG_RUNTIME_DIR", root.path().to_str().expect("UTF-8"))]);
    server.process.kill();
    server.process.wait(SOON);
    assert_eq!(fs::read_dir(root.path()).expect("a directory").count(), 0);
}

#[test]
fn missing_directories_are_skipped() {
    let server = Server::start(&[
        ("XDG_RUNTIME_DIR", "/nonexistent/run"),
        ("TMPDIR", "/nonexistent/tmp"),
    ]);
    twenty_calls(&server);
}

#[test]
fn the_error_names_each_unwritable_directory() {
    let able = Command::new("unshare").args(["-m", "true"]).output();
    if !able.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: mount namespaces are not permitted here");
        return;
    }
    let script = "mount -t tmpfs -o ro none /tmp && mount -t tmpfs -o ro none /dev/shm && exec \"$0\" run --etcd http://127.0.0.1:1";
    let program = example("text");
    if program.starts_with("/tmp") {
        println!("SKIPPED: the program lies in /tmp, which this test hides");
        return;
    }
    let process = Process::builder("unshare")
        .args(["-m", "sh", "-c", script, program.to_str().expect("UTF-8")])
        .env("XDG_RUNTIME_DIR", "/nonexistent/run")
        .env("TMPDIR", "/nonexistent/tmp")
        .start();
    let status = process.wait(SOON);
    let said = process.lines().join("\n");
    assert_eq!(status.code(), Some(1), "{said}");
    for word in [
        "/nonexistent/run",
        "/nonexistent/tmp",
        "/tmp (Read-only",
        "/dev/shm (Read-only",
        "set TMPDIR",
    ] {
        assert!(said.contains(word), "{word} is not in:\n{said}");
    }
    assert!(!said.contains("cannot listen on"), "{said}");
}

#[test]
fn a_frozen_server_does_not_block_the_next() {
    let root = tempfile::tempdir().expect("a directory");
    let runtime = root.path().to_str().expect("UTF-8");
    let frozen = Server::start(&[("XDG_RUNTIME_DIR", runtime)]);
    frozen.process.freeze();
    let next = Server::start(&[("XDG_RUNTIME_DIR", runtime)]);
    twenty_calls(&next);
    frozen.process.thaw();
    eventually("the first goes on", Duration::from_secs(20), || {
        call(frozen.address).ok()
    });
}
