//! etcd is out of space: it accepts deletions and renewals, and no new values. Running servers
//! continue, and one leads.

use crate::common::{Mesh, QUICK, SOON, Server, calls::Calls, publishes};
use palm_tests::{Etcd, Process, binary, eventually, example};
use std::time::Duration;

/// What `palm-cli` ended with, and all that it said.
fn cli(etcd: &Etcd, args: &[&str]) -> (Option<i32>, String) {
    let cli = Process::builder(binary("palm-cli"))
        .args(["--etcd", &etcd.endpoint(), "--prefix", "/mesh"])
        .args(args)
        .start();
    (cli.wait(SOON).code(), cli.lines().join("\n"))
}

fn small() -> Etcd {
    Etcd::builder().arg("--quota-backend-bytes=2000000").start()
}

#[test]
fn a_successor_leads_while_etcd_is_out_of_space() {
    let etcd = small();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let servers = mesh.start_in_line("printf", 3);
    let calls = Calls::start(mesh.options());
    etcd.fill();
    servers[0].kill();
    // Its record and candidacy are gone, and the next one takes up the duties.
    mesh.await_lead(&servers[1].uuid, SOON);
    servers[1].wait_for_line(|line| line.contains("leading the mesh, in term"), SOON);
    eventually("the dead leader's record is gone", SOON, || {
        (!mesh.is_registered(&servers[0].uuid)).then_some(())
    });
    let (line, _) = servers[1].wait_for_line(
        |line| line.contains("WARNING") && line.contains("out of space"),
        SOON,
    );
    assert!(line.contains("docs/operations.md"), "{line}");
    // What is published stays, for the leases that it is on are renewed.
    std::thread::sleep(Duration::from_secs(8));
    let published = |server: &Server| {
        mesh.state()
            .iter()
            .any(|(key, event)| publishes(key, event, &server.uuid))
    };
    assert!(!published(&servers[0]) && servers[1..].iter().all(published));
    let warnings = servers[1]
        .lines_with("out of space")
        .into_iter()
        .filter(|line| line.contains("WARNING"));
    assert!(
        warnings.count() < 12,
        "{:?}",
        servers[1].lines_with("out of space")
    );

    // A server that starts reports why it cannot join, and what to do.
    let refused = Process::builder(example("printf"))
        .args(["run", "--etcd", &etcd.endpoint(), "--prefix", "/mesh"])
        .start();
    assert_eq!(refused.wait(SOON).code(), Some(1));
    assert!(
        refused
            .lines()
            .iter()
            .any(|line| line.contains("out of space") && line.contains("disarm"))
    );

    // A server that leaves is gone.
    servers[2].terminate();
    assert!(servers[2].wait(SOON).success(), "{:?}", servers[2].lines());
    assert!(!mesh.is_registered(&servers[2].uuid));

    etcd.make_space();
    mesh.await_published(&[&servers[1].uuid]);
    let newcomer = mesh.start("printf");
    mesh.await_published(&[&servers[1].uuid, &newcomer.uuid]);
    drop(calls);
}

#[test]
fn a_removal_without_space_for_its_tombstone_says_so() {
    let etcd = small();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let servers = mesh.start_in_line("printf", 2);
    etcd.fill();
    let (code, said) = cli(&etcd, &["rm", &servers[1].uuid]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("is deleted")
            && said.contains("out of space")
            && said.contains("register again"),
        "{said}"
    );
    eventually("the record is gone", SOON, || {
        (!mesh.is_registered(&servers[1].uuid)).then_some(())
    });
    servers[1].wait_for_line(|line| line.contains("registering again failed: etcd"), SOON);
    assert!(servers[1].is_running(), "no tombstone, no end");

    etcd.make_space();
    mesh.await_published(&[&servers[0].uuid, &servers[1].uuid]);
    let (code, said) = cli(&etcd, &["rm", &servers[1].uuid]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(servers[1].wait(SOON).code(), Some(77));
}

#[test]
fn a_reset_without_space_for_its_mark_clears_all() {
    let etcd = small();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let servers = mesh.start_in_line("printf", 2);
    etcd.fill();
    let (code, said) = cli(&etcd, &["reset", "--yes"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("Cleared the mesh of 2 servers") && said.contains("out of space"),
        "{said}"
    );
    eventually("all is cleared", SOON, || {
        (!mesh.is_registered(&servers[0].uuid)).then_some(())
    });
    for server in &servers {
        server.wait_for_line(
            |line| line.contains("WARNING") && line.contains(" failed: etcd is out of space"),
            SOON,
        );
    }
    etcd.make_space();
    mesh.await_published(&[&servers[0].uuid, &servers[1].uuid]);
    assert!(servers.iter().all(|server| server.is_running()));
}
