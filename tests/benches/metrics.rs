//! Measures what metrics cost: calls to a server whose metrics are scraped twice a second, and to one
//! that does not serve any, in turns.
//!
//! `make bench BENCH=metrics`. The servers are processes of their own (this program again, with
//! other arguments). The counters themselves are always there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::{
    env,
    error::Error,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{
    executor::block_on,
    future::{pending, try_join_all},
};
use palm_peer::{Client, Config, FunctionError, Message, Server};
use palm_tests::{Etcd, Process, eventually, free_port, median};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const IN_FLIGHT: usize = 256;
const PAYLOAD: usize = 100;
const SOON: Duration = Duration::from_secs(30);
/// The time between two scrapes; Prometheus' own default is a minute.
const SCRAPE_EVERY: Duration = Duration::from_millis(500);
/// The part of the calls per second that must be left.
const AIM: f64 = 0.95;

async fn echo(message: Message) -> Result<Bytes, FunctionError> {
    Ok(message.into_payload())
}

/// Serves `one` or `two`; with metrics if there is an address for them.
async fn serve(etcd: String, name: String, metrics: Option<SocketAddr>) -> Outcome<()> {
    let config = Config::default().etcd(vec![etcd]).metrics(metrics);
    let server = Server::new(name).function("echo", echo);
    Ok(server.join(config).await?.serve(pending::<()>()).await?)
}

/// Calls to one server: in a second, and the median of their times in microseconds.
type Turn = (f64, f64);

/// Calls a server for so long.
async fn turn(client: Client, target: &'static str, time: Duration) -> Outcome<Turn> {
    let start = Instant::now();
    let payload = Bytes::from(vec![7; PAYLOAD]);
    let caller = || async {
        let mut trips = Vec::new();
        while start.elapsed() < time {
            let sent = Instant::now();
            let answer = client.call(target, payload.clone()).await?;
            trips.push(sent.elapsed().as_secs_f64() * 1e6);
            assert_eq!(answer.len(), payload.len());
        }
        Outcome::Ok(trips)
    };
    let trips = try_join_all((0..IN_FLIGHT).map(|_| caller())).await?;
    let trips = trips.concat();
    let per_second = f64::from(u32::try_from(trips.len())?) / start.elapsed().as_secs_f64();
    Ok((per_second, median(trips)))
}

/// Scrapes the metrics once. Returns how many bytes they have.
fn scrape(address: SocketAddr) -> Outcome<usize> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("# EOF\n") {
        Ok(answer.len())
    } else {
        Err(format!("no metrics: {answer}").into())
    }
}

fn bench(rounds: usize, time: Duration) -> Outcome<()> {
    let me = env::current_exe()?;
    let etcd = Etcd::start();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (endpoint, shown) = (etcd.endpoint(), address.to_string());
    let _servers = [
        Process::start(&me, ["serve", &endpoint, "one"]),
        Process::start(&me, ["serve", &endpoint, "two", &shown]),
    ];
    let client = block_on(Client::connect(Config::default().etcd(vec![endpoint])))?;
    eventually("both servers can be reached", SOON, || {
        (client.reachable().len() == 2).then_some(())
    });
    let length = scrape(address)?;
    let (scrapes, mut turns) = (AtomicU32::new(0), Vec::new());
    for _ in 0..=rounds {
        let without = palm_peer::block_on(turn(client.clone(), "one.echo", time))?;
        let is_over = AtomicBool::new(false);
        let with = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(SCRAPE_EVERY / 2);
                while !is_over.load(Ordering::Relaxed) {
                    scrape(address).expect("metrics");
                    scrapes.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(SCRAPE_EVERY);
                }
            });
            let with = palm_peer::block_on(turn(client.clone(), "two.echo", time));
            is_over.store(true, Ordering::Relaxed);
            with
        })?;
        turns.push([without, with]);
    }
    // The first round only opened connections.
    turns.remove(0);
    let middle = |of: &dyn Fn(&[Turn; 2]) -> f64| median(turns.iter().map(of).collect());
    let ratio = middle(&|[without, with]| with.0 / without.0);
    println!("### What metrics cost\n");
    println!("| server | calls/s, {IN_FLIGHT} in flight | p50, µs |\n|---|---:|---:|");
    for (name, rate, trip) in [
        (
            "without",
            middle(&|[one, _]| one.0),
            middle(&|[one, _]| one.1),
        ),
        (
            "scraped",
            middle(&|[_, two]| two.0),
            middle(&|[_, two]| two.1),
        ),
    ] {
        println!("| {name} | {rate:.0} | {trip:.0} |");
    }
    println!(
        "\nmedians of {rounds} rounds of {time:?}; {} scrapes of {length} bytes, one each {SCRAPE_EVERY:?}",
        scrapes.into_inner()
    );
    println!(
        "scraped / without: {ratio:.3}; the aim is {AIM} or more: {}",
        if ratio >= AIM { "reached" } else { "missed" }
    );
    Ok(())
}

/// The arguments: a role, or the number of rounds
/// and the seconds of each turn.
fn main() -> Outcome<()> {
    let words = palm_tests::bench_words();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", etcd, name] => palm_peer::block_on(serve(etcd.into(), name.into(), None)),
        ["serve", etcd, name, metrics] => {
            let metrics = metrics.parse()?;
            palm_peer::block_on(serve(etcd.into(), name.into(), Some(metrics)))
        }
        [rounds, seconds] => bench(rounds.parse()?, Duration::from_secs_f64(seconds.parse()?)),
        _ => bench(25, Duration::from_millis(500)),
    }
}
