//! What a call costs: PALM client to PALM server, against a bare ZeroMQ DEALER to a bare ROUTER that echoes.
//!
//! `make bench`. Both servers are processes of their own (this program again, with another argument), both clients run in
//! this one, all under the same executor and in turns, so that whatever else the machine does meets both alike. Read the
//! ratios: they hold from machine to machine, the times do not. docs/benchmarks.md has more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::{
    env,
    error::Error,
    fmt::Write as _,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{
    executor::block_on,
    future::{pending, try_join_all},
};
use palm_peer::{Client, FunctionError, Message, Server, Settings};
use palm_tests::{Etcd, Process, eventually};
use zeromq::{DealerSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PAYLOAD: usize = 100;
const IN_FLIGHT: [usize; 3] = [1, 16, 256];
const SOON: Duration = Duration::from_secs(20);

/// What one turn of one of the two came to: microseconds, and calls.
#[derive(Debug, Clone, Copy)]
struct Turn {
    p50: f64,
    p99: f64,
    per_second: f64,
}

type Figure = (&'static str, fn(&Turn) -> f64);

const FIGURES: [Figure; 3] =
    [("p50, µs", |turn| turn.p50), ("p99, µs", |turn| turn.p99), ("calls/s", |turn| turn.per_second)];

impl Turn {
    fn new(mut trips: Vec<Duration>, took: Duration) -> Self {
        trips.sort_unstable();
        let quantile = |percent: usize| trips[(trips.len() * percent / 100).min(trips.len() - 1)].as_secs_f64() * 1e6;
        let calls = u32::try_from(trips.len()).expect("fewer calls than that");
        Self { p50: quantile(50), p99: quantile(99), per_second: f64::from(calls) / took.as_secs_f64() }
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

async fn echo(message: Message) -> Result<Bytes, FunctionError> {
    Ok(message.into_payload())
}

/// The PALM server, in a process of its own.
async fn serve_palm(etcd: String) -> Outcome<()> {
    let options = Settings { etcd: vec![etcd], ..Settings::default() }.build()?;
    Ok(Server::new("bench").function("echo", echo).join(options).await?.serve(pending::<()>()).await?)
}

/// The bare server, in a process of its own.
async fn serve_bare() -> Outcome<()> {
    let mut socket = RouterSocket::new();
    println!("{}", socket.bind("tcp://127.0.0.1:0").await?);
    loop {
        let message = socket.recv().await?;
        socket.send(message).await?;
    }
}

async fn turn_palm(client: &Client, in_flight: usize, time: Duration) -> Outcome<Turn> {
    let start = Instant::now();
    let caller = || async {
        let mut trips = Vec::new();
        while start.elapsed() < time {
            let sent = Instant::now();
            let answer = client.call("bench.echo", Bytes::from_static(&[7; PAYLOAD])).await?;
            trips.push(sent.elapsed());
            assert_eq!(answer.len(), PAYLOAD);
        }
        Ok::<_, Box<dyn Error>>(trips)
    };
    let trips = try_join_all((0..in_flight).map(|_| caller())).await?;
    Ok(Turn::new(trips.concat(), start.elapsed()))
}

async fn turn_bare(socket: &mut DealerSocket, in_flight: usize, time: Duration) -> Outcome<Turn> {
    let start = Instant::now();
    // The first bytes say which of those in flight it is.
    let message = |slot: usize| {
        let mut payload = vec![7; PAYLOAD];
        payload[..2].copy_from_slice(&u16::try_from(slot).expect("a small number").to_le_bytes());
        ZmqMessage::from(payload)
    };
    let mut sent = vec![start; in_flight];
    for (slot, sent) in sent.iter_mut().enumerate() {
        *sent = Instant::now();
        socket.send(message(slot)).await?;
    }
    let mut trips = Vec::new();
    let mut open = in_flight;
    while open > 0 {
        let answer = socket.recv().await?.into_vec().pop().expect("a payload");
        let slot = usize::from(u16::from_le_bytes([answer[0], answer[1]]));
        trips.push(sent[slot].elapsed());
        if start.elapsed() < time {
            sent[slot] = Instant::now();
            socket.send(message(slot)).await?;
        } else {
            open -= 1;
        }
    }
    Ok(Turn::new(trips, start.elapsed()))
}

/// Both, in turns. What the machine does otherwise changes from turn to turn, so each ratio is that of two neighbours.
async fn compare(
    client: &Client,
    socket: &mut DealerSocket,
    in_flight: usize,
    rounds: usize,
    time: Duration,
) -> Outcome<String> {
    // Once without counting, to open what must be opened.
    turn_palm(client, in_flight, time).await?;
    turn_bare(socket, in_flight, time).await?;
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        pairs.push((turn_bare(socket, in_flight, time).await?, turn_palm(client, in_flight, time).await?));
    }
    let mut rows = String::new();
    for (figure, of) in FIGURES {
        let middle = |what: &dyn Fn(&(Turn, Turn)) -> f64| median(pairs.iter().map(what).collect());
        let (bare, palm) = (middle(&|(bare, _)| of(bare)), middle(&|(_, palm)| of(palm)));
        let ratio = middle(&|(bare, palm)| of(palm) / of(bare));
        writeln!(rows, "| {in_flight} | {figure} | {bare:.0} | {palm:.0} | {ratio:.2} |")?;
    }
    Ok(rows)
}

async fn bench(in_flight: &[usize], rounds: usize, time: Duration) -> Outcome<()> {
    let me = env::current_exe()?;
    let etcd = Etcd::start();
    let _palm = Process::start(&me, ["serve-palm", &etcd.endpoint()]);
    let bare = Process::start(&me, ["serve-bare"]);
    let (endpoint, _) = bare.wait_for_line(|line| line.starts_with("tcp://"), SOON);

    let client = Client::connect(Settings { etcd: vec![etcd.endpoint()], ..Settings::default() }.build()?).await?;
    eventually("the server can be reached", SOON, || (!client.reachable().is_empty()).then_some(()));
    let mut socket = DealerSocket::new();
    socket.connect(&endpoint).await?;

    println!("{PAYLOAD} B payload, medians of {rounds} rounds of {time:?}\n");
    println!("| in flight | figure | bare ZeroMQ | PALM | PALM / bare |\n|---:|---|---:|---:|---:|");
    for in_flight in in_flight {
        print!("{}", compare(&client, &mut socket, *in_flight, rounds, time).await?);
    }
    Ok(())
}

/// `cargo bench` adds `--bench`; words without dashes are ours: a role, or the number of rounds, the seconds of each turn,
/// and how many calls are in flight.
fn main() -> Outcome<()> {
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve-palm", etcd] => block_on(serve_palm(etcd.to_owned())),
        ["serve-bare"] => block_on(serve_bare()),
        [rounds, seconds, in_flight] => {
            block_on(bench(&[in_flight.parse()?], rounds.parse()?, Duration::from_secs_f64(seconds.parse()?)))
        }
        _ => block_on(bench(&IN_FLIGHT, 25, Duration::from_millis(250))),
    }
}
