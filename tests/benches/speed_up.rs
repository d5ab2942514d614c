//! What several instances of one server gain with a function that computes, against threads that
//! share the same work without a mesh.
//!
//! `cargo bench -p palm-tests --bench speed_up`, or `... -- ROUNDS INSTANCES`. The instances are
//! processes of their own (this program again, with another argument), one message at a time each.
//! One thread, several threads, one instance and several instances take turns, so that whatever
//! else the machine does meets all alike. On a machine without other work no mesh can gain more
//! than the threads do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::{
    env,
    error::Error,
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, executor::block_on, future::pending};
use palm_peer::{Client, Config, FunctionError, Message, Server};
use palm_tests::{Etcd, Process, eventually, median};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Of a turn; each is some 2 ms of work on one core.
const MESSAGES: u32 = 200;
const SOON: Duration = Duration::from_secs(20);

/// The work of one message.
fn work(seed: u64) -> f64 {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..100_000)
        .map(|_| (1.0 - black_box(random.f64())).ln().sqrt().cos())
        .sum()
}

async fn serve(etcd: String) -> Outcome<()> {
    let options = Config::default().etcd(vec![etcd]).max_in_flight(1);
    let function =
        |message: Message| Ok::<_, FunctionError>(work(message.idx().unwrap_or(0)).to_string());
    Ok(Server::new("worker")
        .blocking("work", function)
        .join(options)
        .await?
        .serve(pending::<()>())
        .await?)
}

fn threads(count: u32) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        for first in 0..count {
            scope.spawn(move || {
                (first..MESSAGES)
                    .step_by(count as usize)
                    .map(|seed| work(seed.into()))
                    .sum::<f64>()
            });
        }
    });
    start.elapsed()
}

fn job(client: &Client, target: &str) -> Outcome<Duration> {
    let start = Instant::now();
    let mut results = client
        .job([target])
        .window(32, 1 << 20)
        .run_iter((0..MESSAGES).map(|_| Bytes::new()))?;
    while let Some((_, result)) = block_on(results.next()) {
        result?;
    }
    Ok(start.elapsed())
}

fn bench(rounds: usize, instances: u32) -> Outcome<()> {
    let me = env::current_exe()?;
    let etcd = Etcd::start();
    let servers: Vec<_> = (0..instances)
        .map(|_| Process::start(&me, ["serve", &etcd.endpoint()]))
        .collect();
    let client = block_on(Client::connect(
        Config::default().etcd(vec![etcd.endpoint()]),
    ))?;
    eventually("all instances can be reached", SOON, || {
        client
            .reachable()
            .iter()
            .any(|found| found.instances == servers.len())
            .then_some(())
    });
    let records = etcd.etcdctl(&["get", "--prefix", "--keys-only", "/servers/"]);
    let one = records
        .trim()
        .split('/')
        .next_back()
        .and_then(|rest| rest.split_whitespace().next())
        .expect("a server");
    let one = format!("{one}.work");

    let (mut bare, mut mesh) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (thread, all_threads) = (threads(1).as_secs_f64(), threads(instances).as_secs_f64());
        let (instance, all_instances) = (
            job(&client, &one)?.as_secs_f64(),
            job(&client, "worker.work")?.as_secs_f64(),
        );
        // The first opened what must be opened.
        if round > 0 {
            bare.push(thread / all_threads);
            mesh.push(instance / all_instances);
        }
    }
    println!(
        "{MESSAGES} messages, medians of {rounds} rounds, {} cores\n",
        thread::available_parallelism()?
    );
    println!("| | speed-up of {instances} |\n|---|---:|");
    println!(
        "| threads without a mesh | {:.2} |\n| instances | {:.2} |",
        median(bare),
        median(mesh)
    );
    Ok(())
}

/// The arguments: a role, or the number of rounds
/// and of instances.
fn main() -> Outcome<()> {
    let words = palm_tests::bench_words();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", etcd] => block_on(serve(etcd.to_owned())),
        [rounds, instances] => bench(rounds.parse()?, instances.parse()?),
        _ => bench(15, 2),
    }
}
