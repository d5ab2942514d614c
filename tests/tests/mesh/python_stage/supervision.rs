//! No thread and no task of the server in Python ends unseen.

use super::program;
use crate::common::{Mesh, QUICK, SOON, Server};
use futures::executor::block_on;
use palm_peer::Client;
use palm_tests::{Etcd, eventually, python};
use std::path::Path;

const FAILING: &str = "tests/tests/mesh/python_stage/failing.py";

fn start(mesh: &Mesh, python: &Path, etcd: &Etcd, fail: &str) -> Server {
    mesh.start_program(program(python, FAILING, &etcd.endpoint()).env("FAIL", fail))
}

#[test]
fn a_failed_task_is_logged_by_name_and_restarted() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let leader = mesh.start("printf");
    let client = block_on(Client::connect(mesh.options())).expect("connects");
    for task in ["lease-keeper", "own-record", "directory", "serving"] {
        let server = start(&mesh, &python, &etcd, &format!("{task}:1"));
        let named = format!("ERROR:peer:task {task} failed; it restarts");
        server.wait_for_line(|line| line.starts_with(&named), SOON);
        mesh.await_published(&[&leader.uuid, &server.uuid]);
        let call = || {
            block_on(
                client
                    .call(format!("{}.reverse", server.uuid), "abc")
                    .into_future(),
            )
            .ok()
        };
        assert_eq!(eventually("an answer", SOON, call), "cba");
        // Its watch reports that its record is gone.
        mesh.reset();
        mesh.await_published(&[&leader.uuid, &server.uuid]);
        server.terminate();
        assert_eq!(server.wait(SOON).code(), Some(0), "{task}");
    }
}

#[test]
fn repeated_task_failures_end_the_server_with_status_1() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    for task in ["lease-keeper", "own-record", "directory", "serving"] {
        let server = start(&mesh, &python, &etcd, &format!("{task}:1000"));
        assert_eq!(server.wait(SOON).code(), Some(1), "{task}");
        assert!(!mesh.is_registered(&server.uuid), "{task}: it left");
    }
}

#[test]
fn a_request_whose_task_fails_is_answered() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let _leader = mesh.start("printf");
    let server = start(&mesh, &python, &etcd, "finish:1");
    let client = block_on(Client::connect(mesh.options())).expect("connects");
    eventually("it is published", SOON, || {
        client
            .reachable()
            .iter()
            .find(|name| name.server == "pytext")
            .map(drop)
    });
    let call = || block_on(client.call("pytext.reverse", "abc").into_future());
    let error = call().expect_err("its work fails");
    assert!(error.to_string().contains("RuntimeError"), "{error}");
    assert_eq!(call().expect("the next is done"), "cba");
    server.wait_for_line(
        |line| line.starts_with("ERROR:peer:a request was not finished"),
        SOON,
    );
}
