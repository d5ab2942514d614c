//! A mesh under load and churn for a long time: checks that memory, descriptors and
//! threads do not grow.
//!
//! `make soak`, or `cargo bench -p palm-tests --bench soak`, for 15 minutes; `-- 120` for another
//! number of seconds. Two servers stay, the first of which leads. Beside them, one of two others is
//! killed every 10 s and started again at its own port, while a client streams a job through all
//! and calls functions, 200 connections a second come and go, and 500 clients a second greet with
//! new uuids over connections that stay for a minute. Fails when, from the first quarter on, the
//! memory, descriptors or threads of the servers that stay or of the client grow, or when a message
//! of the job has no result.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use bytes::Bytes;
use futures::{StreamExt as _, executor::block_on, future::pending, stream};
use palm_peer::{Client, Config, FunctionError, Message, Server};
use palm_tests::{Etcd, Process, ResourceUsage, eventually, free_port, wire::Wire};
use std::{
    env,
    error::Error,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use uuid::Uuid;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SECONDS: u64 = 15 * 60;
const SOON: Duration = Duration::from_secs(30);
/// A separate loopback address: no other program takes a port there while a server is restarted.
const HOST: Ipv4Addr = Ipv4Addr::new(127, 88, 0, 1);
const PIPELINE: [&str; 2] = ["a.echo", "b.echo"];
/// How often one of the servers that do not stay is killed.
const KILL_PERIOD: Duration = Duration::from_secs(10);
/// Messages of the job that are started every 5 ms.
const MESSAGES: u32 = 20;
const GREETINGS_PER_SECOND: u32 = 500;
const CONNECTIONS_PER_SECOND: u32 = 200;
/// How long a connection greets before another takes its place.
const GREETS_FOR: Duration = Duration::from_secs(60);
/// How much the resident memory may grow after the first quarter: allocators do not
/// return everything.
const MEMORY: u64 = 6 << 20;
/// What the zeromq crate keeps of each connection that it ever had.
const PER_CONNECTION: u64 = 270;
const FILES: usize = 40;
const THREADS: usize = 2;

async fn echo(message: Message) -> Result<Bytes, FunctionError> {
    Ok(message.into_payload())
}

async fn serve(name: &str, etcd: &str, port: &str) -> Outcome<()> {
    let (etcd, ip) = (vec![etcd.to_owned()], HOST.to_string());
    let settings = Config::default().etcd(etcd).ip(ip).port(port.parse()?);
    let options = settings;
    let peer = Server::new(name)
        .function("echo", echo)
        .join(options)
        .await?;
    println!("joined");
    Ok(peer.serve(pending::<()>()).await?)
}

/// Streams a job and calls functions until it is killed; prints the results once a second.
async fn load(etcd: &str) -> Outcome<()> {
    let client = Client::connect(Config::default().etcd(vec![etcd.to_owned()])).await?;
    eventually("both names can be reached", SOON, || {
        (client.reachable().len() == 2).then_some(())
    });
    let (called, broken) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (calls, breaks, caller) = (Arc::clone(&called), Arc::clone(&broken), client.clone());
    thread::spawn(move || {
        loop {
            let target = PIPELINE[usize::try_from(calls.load(Ordering::Relaxed) % 2).unwrap_or(0)];
            match block_on(caller.call(target, "hello").timeout(SOON).into_future()) {
                Ok(_) => calls.fetch_add(1, Ordering::Relaxed),
                // A call whose server was killed may have run, so it is not retried.
                Err(_) => breaks.fetch_add(1, Ordering::Relaxed),
            };
            thread::sleep(Duration::from_millis(2));
        }
    });
    let messages = stream::unfold((), |()| async {
        smol::Timer::after(Duration::from_millis(5)).await;
        Some((
            stream::iter((0..MESSAGES).map(|_| Bytes::from_static(&[7; 500]))),
            (),
        ))
    });
    let mut results = client
        .job(PIPELINE)
        .timeout(Duration::from_secs(60))
        .run(messages.flatten().boxed())?;
    let progress = results.progress();
    let mut said = Instant::now();
    while let Some((_, result)) = results.next().await {
        if let Err(error) = result {
            println!("a message failed: {error}");
        }
        if said.elapsed() >= Duration::from_secs(1) {
            said = Instant::now();
            let calls = (
                called.load(Ordering::Relaxed),
                broken.load(Ordering::Relaxed),
            );
            println!(
                "progress {}, {} | {}, {}",
                progress.done(),
                progress.retried(),
                calls.0,
                calls.1
            );
        }
    }
    Ok(())
}

/// Runs `step` this many times a second until `stop`.
fn paced(stop: &AtomicBool, per_second: u32, mut step: impl FnMut()) {
    let begin = Instant::now();
    let mut steps = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = begin + Duration::from_secs(1) * steps / per_second;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        step();
        steps += 1;
    }
}

fn greet(stop: &AtomicBool, server: SocketAddr, greetings: &AtomicU64) {
    let mut wire: Option<(Wire, Instant)> = None;
    paced(stop, GREETINGS_PER_SECOND, || {
        let old = wire
            .take()
            .filter(|(_, opened)| opened.elapsed() < GREETS_FOR);
        let Some((mut open, opened)) =
            old.or_else(|| Some((Wire::dealer(server).ok()?, Instant::now())))
        else {
            return;
        };
        let hello = format!(r#"{{"palm":1,"hello":"{}"}}"#, Uuid::new_v4());
        if open
            .message(&[hello.as_bytes()])
            .and_then(|()| open.answer())
            .is_ok()
        {
            greetings.fetch_add(1, Ordering::Relaxed);
            wire = Some((open, opened));
        }
    });
}

fn come_and_go(stop: &AtomicBool, servers: &[SocketAddr], connections: &AtomicU64) {
    let mut turn = 0;
    paced(stop, CONNECTIONS_PER_SECOND, || {
        turn += 1;
        // Every third one closes without sending anything.
        let address = servers[turn % servers.len()];
        let came = if turn % 3 == 0 {
            Wire::connect(address)
        } else {
            Wire::dealer(address)
        };
        if came.is_ok() {
            connections.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// One server process, at a port of its own.
struct Instance {
    name: &'static str,
    port: u16,
    process: Process,
}

impl Instance {
    fn start(etcd: &Etcd, name: &'static str, port: u16) -> Self {
        let me = env::current_exe().expect("this program");
        let process = Process::start(&me, ["serve", name, &etcd.endpoint(), &port.to_string()]);
        process.wait_for_line(|line| line == "joined", SOON);
        Self {
            name,
            port,
            process,
        }
    }

    fn address(&self) -> SocketAddr {
        (HOST, self.port).into()
    }
}

#[allow(clippy::cast_precision_loss)]
fn row(what: &str, second: u64, all: &[ResourceUsage], rest: &str) {
    let cells: Vec<_> = all
        .iter()
        .map(|h| {
            format!(
                "{:.1} / {} / {}",
                h.memory as f64 / (1024.0 * 1024.0),
                h.files,
                h.threads
            )
        })
        .collect();
    println!("| {what}{second} | {} | {rest} |", cells.join(" | "));
}

/// The most of each over several looks: connections come and go at all times.
fn most(looks: &[Vec<ResourceUsage>]) -> Vec<ResourceUsage> {
    let most = |all: &[ResourceUsage]| ResourceUsage {
        files: all.iter().map(|h| h.files).max().unwrap_or(0),
        threads: all.iter().map(|h| h.threads).max().unwrap_or(0),
        memory: all.iter().map(|h| h.memory).max().unwrap_or(0),
    };
    (0..looks[0].len())
        .map(|who| most(&looks.iter().map(|look| look[who]).collect::<Vec<_>>()))
        .collect()
}

/// Stops the threads that wait for it when it is dropped, even by a panic.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn soak(seconds: u64) -> Outcome<()> {
    let etcd = Etcd::start();
    let stay = [("a", free_port()), ("b", free_port())]
        .map(|(name, port)| Instance::start(&etcd, name, port));
    let mut others = [("a", free_port()), ("b", free_port())]
        .map(|(name, port)| Instance::start(&etcd, name, port));
    let client = Process::start(&env::current_exe()?, ["load", &etcd.endpoint()]);
    client.wait_for_line(|line| line.starts_with("progress "), SOON);

    let stop = AtomicBool::new(false);
    let (greetings, connections) = (AtomicU64::new(0), AtomicU64::new(0));
    let addresses = [stay[0].address(), stay[1].address()];
    let (mut kills, mut looks) = (0, Vec::new());
    println!("{seconds} s; of each process: MiB / descriptors / threads\n");
    println!(
        "| second | leader (a) | other (b) | client | kills | greetings | connections | job messages, tried again | calls, broken |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    thread::scope(|scope| {
        scope.spawn(|| greet(&stop, addresses[1], &greetings));
        scope.spawn(|| come_and_go(&stop, &addresses, &connections));
        let _stop = Stop(&stop);
        let begin = Instant::now();
        let mut printed = 0;
        while begin.elapsed().as_secs() < seconds {
            let due = begin + KILL_PERIOD * (kills + 1);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let place = kills as usize % others.len();
            let (name, port) = (others[place].name, others[place].port);
            others[place].process.kill();
            others[place].process.wait(SOON);
            others[place] = Instance::start(&etcd, name, port);
            kills += 1;
            let second = begin.elapsed().as_secs();
            let all = [&stay[0].process, &stay[1].process, &client]
                .map(|process| ResourceUsage::of(process.pid()))
                .to_vec();
            if second >= printed {
                printed = second + (seconds / 15).max(10);
                let lines = client.lines();
                let done = lines
                    .iter()
                    .rev()
                    .find_map(|line| line.strip_prefix("progress "))
                    .unwrap_or_default();
                let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
                let rest = format!(
                    "{kills} | {} | {} | {done}",
                    count(&greetings),
                    count(&connections)
                );
                row("", second, &all, &rest);
            }
            looks.push((second, all));
        }
    });
    verdict(seconds, &looks, connections.into_inner(), &client)
}

fn verdict(
    seconds: u64,
    looks: &[(u64, Vec<ResourceUsage>)],
    connections: u64,
    client: &Process,
) -> Outcome<()> {
    let part = |from: u64, to: u64| -> Vec<Vec<ResourceUsage>> {
        looks
            .iter()
            .filter(|(second, _)| (from..to).contains(second))
            .map(|(_, all)| all.clone())
            .collect()
    };
    let early = most(&part(seconds / 8, seconds / 2));
    let late = most(&part(seconds / 2, u64::MAX));
    println!();
    row("at most until ", seconds / 2, &early, "");
    row("at most until ", seconds, &late, "");
    for (before, after) in early.iter().zip(&late) {
        let memory = before.memory + MEMORY + connections / 2 * PER_CONNECTION;
        let flat = after.memory <= memory
            && after.files <= before.files + FILES
            && after.threads <= before.threads + THREADS;
        if !flat {
            return Err(format!("a process grew: {before}; then {after}").into());
        }
    }
    let failed: Vec<_> = client
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("a message failed"))
        .collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("{} messages failed: {}", failed.len(), failed[0]).into())
    }
}

/// The arguments: a role, or the
/// number of seconds.
fn main() -> Outcome<()> {
    let words = palm_tests::bench_words();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", name, etcd, port] => {
            let [name, etcd, port] = [name, etcd, port].map(str::to_owned);
            palm_peer::block_on(async move { serve(&name, &etcd, &port).await })
        }
        ["load", etcd] => block_on(load(etcd)),
        [seconds] => soak(seconds.parse()?),
        _ => soak(SECONDS),
    }
}
