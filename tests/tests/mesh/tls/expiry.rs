//! A server warns before its own certificate expires, and is out of the mesh while it is expired.

use super::World;
use crate::common::{Mesh, QUICK, SOON};
use palm_tests::{Authority, Certificate, Etcd, Process, ProcessBuilder, example};
use std::time::Duration;

/// How long a certificate is good for that expires in a test.
const LIVES: Duration = Duration::from_secs(20);
/// A new connection is made in every sixth round at least, and three misses follow;
/// rounds are 2 s apart.
const REMOVED_WITHIN: Duration = Duration::from_secs(6 * 2 + 2 * 3);

fn text(etcd: &Etcd, files: &Certificate) -> ProcessBuilder {
    Process::builder(example("text"))
        .args(["run", "--etcd", &etcd.endpoint()])
        .args(files.flags())
        .args(QUICK)
}

#[test]
fn a_certificate_about_to_expire_causes_a_warning_at_start() {
    let world = World::new();
    let files = world
        .authority
        .certificate("short")
        .host("127.0.0.1")
        .expires_in(Duration::from_secs(50 * 60))
        .issue();
    // Though it panics when it looks for the first time.
    let server = world
        .mesh()
        .start_program(text(&world.etcd, &files).env("PALM_TEST_PANIC", "certificate-expiry"));
    server.wait_for_line(
        |line| line.contains("task certificate-expiry panicked"),
        SOON,
    );
    let file = files.cert.display().to_string();
    let warned =
        |line: &str| line.contains("WARNING") && line.contains(&file) && line.contains(" min: ");
    server.wait_for_line(
        |line| warned(line) && line.contains("expires at") && line.contains("write a new one"),
        SOON,
    );

    // One that is valid for long is not logged.
    let mesh = world.mesh();
    let other = mesh.start("text");
    mesh.await_published(&[&server.uuid, &other.uuid]);
    assert!(
        other.lines_with("expire").is_empty(),
        "{:?}",
        other.lines_with("expire")
    );
}

#[test]
fn an_expired_server_is_removed_until_it_has_a_new_certificate() {
    let etcd = Etcd::start();
    let authority = Authority::new("mesh");
    let good = authority.issue("good", &["127.0.0.1"]);
    let of_files = good.flags();
    let flags: Vec<&str> = of_files.iter().map(String::as_str).chain(QUICK).collect();
    let mesh = Mesh::new(&etcd, "/mesh", &flags);
    let leader = mesh.start("printf");
    mesh.await_published(&[&leader.uuid]);
    let short = authority
        .certificate("short")
        .host("127.0.0.1")
        .expires_in(LIVES)
        .issue();
    let server = mesh.start_program(text(&etcd, &short));
    mesh.await_published(&[&leader.uuid, &server.uuid]);

    let file = short.cert.display().to_string();
    let told =
        |line: &str| line.contains("ERROR") && line.contains(&file) && line.contains("expired at");
    server.wait_for_line(
        |line| told(line) && line.contains("without a restart"),
        LIVES + SOON,
    );
    let removed = format!("Deleted server {} because it does not answer", server.uuid);
    let mark = leader.mark();
    leader.wait_for_line(|line| line.contains(&removed), REMOVED_WITHIN + SOON);
    let why = |line: &str| {
        line.contains(&server.uuid) && line.contains("certificate") && line.contains("expired")
    };
    leader.wait_for_line_after(mark, why, SOON);
    mesh.await_published(&[&leader.uuid]);
    // It registers again, and the leader says again why it stays out.
    let mark = leader.mark();
    leader.wait_for_line_after(
        mark,
        |line| why(line) && line.contains("unconfigured"),
        Duration::from_secs(90),
    );
    assert!(server.is_running());

    drop(authority.issue("short", &["127.0.0.1"]));
    mesh.await_published(&[&leader.uuid, &server.uuid]);
}
