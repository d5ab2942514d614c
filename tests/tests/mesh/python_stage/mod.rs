//! All servers are equal, whatever the language: one in Python, written from `docs/protocol.md`, in
//! a mesh of others.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod jobs;
mod life;
mod protocol;
mod supervision;

use crate::common::{Mesh, Server};
use palm_tests::{Process, ProcessBuilder, in_repository};
use std::path::Path;

/// The program of a server in Python, to be started at this etcd.
pub(crate) fn program(python: &Path, path: &str, etcd: &str) -> ProcessBuilder {
    run_by(Process::builder(python), path, etcd)
}

/// The same, by a Python that may run on another host.
pub(crate) fn run_by(python: ProcessBuilder, path: &str, etcd: &str) -> ProcessBuilder {
    let path = in_repository(path).display().to_string();
    python
        .args([
            "-B",
            path.as_str(),
            "run",
            "--debug",
            "--ttl",
            "3",
            "--etcd",
            etcd,
        ])
        .env("PYTHONPATH", in_repository("examples/python"))
}

/// Starts the example, and waits until clients can reach it.
fn start(mesh: &Mesh, python: &Path, etcd: &str) -> Server {
    let server = mesh.start_program(program(python, "examples/python/server.py", etcd));
    mesh.await_published(&[&server.uuid]);
    server
}
