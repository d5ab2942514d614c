//! Compares PALM with common alternatives: calls and jobs, all rows measured in the
//! same run, in turns.
//!
//! ```sh
//! make bench                                                    # everything, some six minutes
//! cargo bench -p palm-tests --bench table -- calls 256 palm nats   # calls alone, 256 in flight, these subjects
//! cargo bench -p palm-tests --bench table -- jobs 3 100            # jobs of 3 stages (what else there is has one), 100 B
//! cargo bench -p palm-tests --bench table -- jobs rounds=15 seconds=2
//! ```
//!
//! Every server is a process of its own (this program again, with a role as its argument, or
//! Python). Clients run in this process, those of Python in their own. docs/benchmarks.md says how
//! to read what this prints.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod arguments;
mod calls;
mod cpu;
mod grpc;
mod jobs;
mod measure;
mod nats;
mod palm;
mod python;
mod raw_tcp;
mod raw_zeromq;
mod report;

use std::error::Error;

use arguments::Arguments;
use futures::executor::block_on;
use palm::Mesh;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn bench(wanted: &Arguments) -> Outcome<()> {
    let before = report::load();
    let elsewhere = wanted.calls && wanted.subject("elsewhere");
    let mesh = (wanted.subject("palm") || elsewhere)
        .then(|| Mesh::start(if wanted.jobs { 3 } else { 1 }, elsewhere))
        .transpose()?;
    let mut aims = Vec::new();
    if wanted.calls {
        aims.extend(calls::bench(wanted, mesh.as_ref())?);
    }
    if wanted.jobs {
        aims.extend(jobs::bench(wanted, mesh.as_ref())?);
    }
    report::aims(&aims);
    report::circumstances(wanted, &before);
    Ok(())
}

/// The arguments: the role of a server,
/// or the selection.
fn main() -> Outcome<()> {
    let words = palm_tests::bench_words();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve-palm", etcd, name] => {
            palm_peer::block_on(palm::serve(etcd.to_owned(), name.to_owned()))
        }
        ["serve-palm-elsewhere", etcd, name] => {
            block_on(palm::serve(etcd.to_owned(), name.to_owned()))
        }
        ["serve-palm-many", etcd, name, count] => palm_peer::block_on(palm::serve_many(
            etcd.to_owned(),
            name.to_owned(),
            count.parse()?,
        )),
        ["serve-tcp"] => palm_peer::block_on(raw_tcp::serve()),
        ["serve-zeromq"] => palm_peer::block_on(raw_zeromq::serve()),
        ["serve-tonic"] => grpc::serve(),
        ["serve-nats", server] => nats::serve(server.to_owned()),
        _ => bench(&Arguments::read(&words)?),
    }
}
