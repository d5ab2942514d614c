//! What the door costs: calls to a server behind its door, against the same server without one.
//!
//! `cargo bench -p palm-tests --bench door`. Both servers are processes of their own (this program again, with another
//! argument); the client calls them in turns, and each ratio is that of two neighbouring turns.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::{
    env,
    error::Error,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{
    executor::block_on,
    future::{pending, try_join_all},
};
use palm_peer::{Client, FunctionError, Message, Server, Settings};
use palm_tests::{Etcd, Process, eventually};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Payloads and the calls in flight with each.
const CASES: [(usize, &[usize]); 3] = [(100, &[1, 16, 256]), (10_000, &[1, 16, 64]), (1_000_000, &[1, 8])];
const SOON: Duration = Duration::from_secs(20);

async fn echo(message: Message) -> Result<Bytes, FunctionError> {
    Ok(message.into_payload())
}

async fn serve(etcd: String, name: &str) -> Outcome<()> {
    let options = Settings { etcd: vec![etcd], door: name == "door", ..Settings::default() }.build()?;
    Ok(Server::new(name).function("echo", echo).join(options).await?.serve(pending::<()>()).await?)
}

/// Calls in a second, and the median of their times in microseconds.
async fn turn(client: &Client, target: &str, payload: &Bytes, in_flight: usize, time: Duration) -> Outcome<(f64, f64)> {
    let start = Instant::now();
    let caller = || async {
        let mut trips = Vec::new();
        while start.elapsed() < time {
            let sent = Instant::now();
            let answer = client.call(target, payload.clone()).await?;
            trips.push(sent.elapsed().as_secs_f64() * 1e6);
            assert_eq!(answer.len(), payload.len());
        }
        Ok::<_, Box<dyn Error>>(trips)
    };
    let trips = try_join_all((0..in_flight).map(|_| caller())).await?.concat();
    let per_second = f64::from(u32::try_from(trips.len())?) / start.elapsed().as_secs_f64();
    Ok((per_second, median(trips)))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

async fn bench(rounds: usize, time: Duration) -> Outcome<()> {
    let me = env::current_exe()?;
    let etcd = Etcd::start();
    let _servers = ["door", "none"].map(|name| Process::start(&me, ["serve", name, &etcd.endpoint()]));
    let client = Client::connect(Settings { etcd: vec![etcd.endpoint()], ..Settings::default() }.build()?).await?;
    eventually("both servers can be reached", SOON, || (client.reachable().len() == 2).then_some(()));
    println!("medians of {rounds} rounds of {time:?}\n");
    println!("| payload, B | in flight | calls/s without | calls/s with | ratio | p50 without, µs | p50 with, µs |");
    println!("|---:|---:|---:|---:|---:|---:|---:|");
    for (size, all) in CASES {
        let payload = Bytes::from(vec![7; size]);
        for in_flight in all {
            let mut pairs = Vec::new();
            for _ in 0..=rounds {
                let none = turn(&client, "none.echo", &payload, *in_flight, time).await?;
                pairs.push((none, turn(&client, "door.echo", &payload, *in_flight, time).await?));
            }
            // The first opened what must be opened.
            pairs.remove(0);
            #[allow(clippy::type_complexity)]
            let middle = |of: fn(&((f64, f64), (f64, f64))) -> f64| median(pairs.iter().map(of).collect());
            let (without, with) = (middle(|(none, _)| none.0), middle(|(_, door)| door.0));
            let ratio = middle(|(none, door)| door.0 / none.0);
            let (slow, slower) = (middle(|(none, _)| none.1), middle(|(_, door)| door.1));
            println!("| {size} | {in_flight} | {without:.0} | {with:.0} | {ratio:.2} | {slow:.0} | {slower:.0} |");
        }
    }
    Ok(())
}

/// `cargo bench` adds `--bench`; words without dashes are ours: a role, or the number of rounds and the seconds of each turn.
fn main() -> Outcome<()> {
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", name, etcd] => block_on(serve(etcd.to_owned(), name)),
        [rounds, seconds] => block_on(bench(rounds.parse()?, Duration::from_secs_f64(seconds.parse()?))),
        _ => block_on(bench(15, Duration::from_millis(250))),
    }
}
