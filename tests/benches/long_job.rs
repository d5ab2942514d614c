//! The memory of a long job, in its client and in its servers.
//!
//! `cargo bench -p palm-tests --bench long_job` sends 5 million messages of 100 bytes through two
//! servers; `cargo bench -p palm-tests --bench long_job -- 500000` another number. The servers are
//! processes of their own (this program again, with another argument). It fails when a process has
//! grown by more than 16 MiB since the first tenth.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::{
    env,
    error::Error,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, executor::block_on, future::pending};
use palm_peer::{Client, Config, FunctionError, Message, Server};
use palm_tests::{Etcd, Process, eventually, resident};

type Outcome<T> = Result<T, Box<dyn Error>>;

const MESSAGES: u64 = 5_000_000;
const PAYLOAD: &[u8] = &[7; 100];
const NAMES: [&str; 2] = ["first", "second"];
const SOON: Duration = Duration::from_secs(20);
/// How much a process may grow between the first tenth and the end.
const GROWTH: u64 = 16 << 20;

async fn echo(message: Message) -> Result<Bytes, FunctionError> {
    Ok(message.into_payload())
}

async fn serve(etcd: String, name: &str) -> Outcome<()> {
    let options = Config::default().etcd(vec![etcd]);
    Ok(Server::new(name)
        .function("echo", echo)
        .join(options)
        .await?
        .serve(pending::<()>())
        .await?)
}

async fn bench(messages: u64) -> Outcome<()> {
    let me = env::current_exe()?;
    let etcd = Etcd::start();
    let servers = NAMES.map(|name| Process::start(&me, ["serve", name, &etcd.endpoint()]));
    let client = Client::connect(Config::default().etcd(vec![etcd.endpoint()])).await?;
    eventually("both servers can be reached", SOON, || {
        (client.reachable().len() == 2).then_some(())
    });
    let memory = || [std::process::id(), servers[0].pid(), servers[1].pid()].map(resident);
    println!(
        "{messages} messages of {} B through {} servers; resident memory in KiB\n",
        PAYLOAD.len(),
        NAMES.len()
    );
    println!(
        "| done | client | first server | second server | messages/s |\n|---:|---:|---:|---:|---:|"
    );

    let start = Instant::now();
    let pipeline = NAMES.map(|name| format!("{name}.echo"));
    let numbers = (0..messages).map(|_| Bytes::from_static(PAYLOAD));
    let mut results = client.job(pipeline).run_iter(numbers)?;
    let progress = results.progress();
    let (mut done, mut first) = (0, None);
    while let Some((idx, result)) = results.next().await {
        assert_eq!((idx, result?.len()), (done, PAYLOAD.len()));
        done += 1;
        if [messages / 10, messages / 2, messages].contains(&done) {
            let now = memory();
            let [client, one, two] = now.map(|bytes| bytes >> 10);
            println!(
                "| {} % | {client} | {one} | {two} | {:.0} |",
                done * 100 / messages,
                progress.rate()
            );
            let first = *first.get_or_insert(now);
            for (before, now) in first.into_iter().zip(now) {
                assert!(
                    now < before + GROWTH,
                    "a process grew from {before} bytes to {now}"
                );
            }
        }
    }
    println!(
        "\n{:.0} s, {} tried again, {} failed",
        start.elapsed().as_secs_f64(),
        progress.retried(),
        progress.failed()
    );
    Ok(())
}

/// The arguments: a role, or the
/// number of messages.
fn main() -> Outcome<()> {
    let words = palm_tests::bench_words();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", name, etcd] => block_on(serve(etcd.to_owned(), name)),
        [messages] => block_on(bench(messages.parse()?)),
        _ => block_on(bench(MESSAGES)),
    }
}
