//! The mesh over TLS: only peers with a certificate of its authority are accepted, and no byte of
//! others reaches `ZeroMQ`.

// Tests fail by panicking.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod clients;
mod documented_commands;
mod expiry;
mod mesh;
mod resource_usage;
mod rotation;
mod servers;
mod settings;

use crate::{
    common::{self, Mesh},
    tls_client::{Secure, config, dial},
};
use futures::executor::block_on;
use palm_peer::{CallError, Client, Config};
use palm_tests::{Authority, Certificate, Etcd, eventually};
use serde_json::Value;
use std::net::SocketAddr;

/// An authority, and an etcd that lets in whom it signed.
struct World {
    authority: Authority,
    etcd: Etcd,
    /// A certificate for servers and clients on this machine.
    files: Certificate,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new("mesh");
        let etcd = Etcd::certified_by(&authority);
        let files = authority.issue("server", &["127.0.0.1"]);
        Self {
            authority,
            etcd,
            files,
        }
    }

    /// A mesh whose servers and clients show this certificate, with these flags beside.
    fn mesh_with(&self, prefix: &str, files: &Certificate, flags: &[&str]) -> Mesh<'_> {
        let of_files = files.flags();
        let all: Vec<&str> = of_files
            .iter()
            .map(String::as_str)
            .chain(flags.iter().copied())
            .collect();
        Mesh::new(&self.etcd, prefix, &all)
    }

    /// A mesh with TLS and nothing special.
    fn mesh(&self) -> Mesh<'_> {
        self.mesh_with("/mesh", &self.files, &["--tls", "required"])
    }
}

fn connect(options: Config) -> Client {
    block_on(Client::connect(options)).expect("a client connects")
}

fn try_call(client: &Client, target: &str) -> Result<String, CallError> {
    let answer = block_on(client.call(target, "hello").into_future());
    answer.map(|answer| String::from_utf8_lossy(&answer).into_owned())
}

/// A call that must succeed, be the machine as busy as it may.
#[track_caller]
fn good_call(client: &Client) {
    let answer = eventually("a good call", common::SOON, || {
        try_call(client, "text.shout").ok()
    });
    assert_eq!(answer, "HELLO");
}

/// What `_ping` of this server says.
#[track_caller]
fn ping(client: &Client, uuid: &str) -> Value {
    let answer = try_call(client, &format!("{uuid}._ping")).expect("a ping is answered");
    serde_json::from_str(&answer).expect("JSON")
}

/// Where a server listens.
fn address(endpoint: &str) -> SocketAddr {
    endpoint
        .trim_start_matches("tcp://")
        .parse()
        .expect("an address")
}
