//! Jobs: streams of messages through pipelines of servers, with nothing lost.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::in_process;

mod churn;
mod errors;
mod flow;
mod load;
mod poison;
mod restarts;

use futures::{StreamExt as _, executor::block_on};
use palm_peer::{Bytes, Client, FunctionError, JobError, JobResults, Message, Server};
use palm_tests::{Etcd, eventually};

/// What every message of a job ended in.
fn collect(results: JobResults) -> Vec<(u64, Result<Bytes, JobError>)> {
    block_on(results.collect())
}

/// A client that sees all servers that have registered.
fn client(etcd: &Etcd) -> Client {
    let options = in_process::settings(etcd);
    let client = block_on(Client::connect(options)).expect("etcd is there");
    let registered = etcd
        .etcdctl(&["get", "--prefix", "--keys-only", "/servers/"])
        .split_whitespace()
        .count();
    eventually("the client sees all servers", in_process::SOON, || {
        let seen: usize = client
            .reachable()
            .iter()
            .map(|server| server.instances)
            .sum();
        (seen == registered).then_some(())
    });
    client
}

/// A server that adds its letter to what comes through.
fn letter(name: &'static str) -> Server {
    Server::new(name).function("add", async move |message: Message| {
        Ok::<_, FunctionError>([message.payload(), name.as_bytes()].concat())
    })
}

fn numbers(count: u32) -> impl Iterator<Item = Bytes> + Send + Unpin {
    (0..count).map(|number| Bytes::from(format!("{number}:")))
}
