//! Measures what the ingress costs: calls through it, with and without TLS, against the same server
//! without one; and the time to open a connection.
//!
//! `cargo bench -p palm-tests --bench ingress`. The servers are processes of their own (this
//! program again, with other arguments); the clients call them in turns, and each ratio is that of
//! two neighbouring turns.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../tls_client/mod.rs"]
mod tls_client;

use std::{
    env,
    error::Error,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{
    executor::block_on,
    future::{pending, try_join_all},
};
use palm_peer::{Client, Config, FunctionError, Message, Server};
use palm_tests::{
    Authority, Certificate, Etcd, Process, eventually, free_port, median, wire::Wire,
};
use rustls::{ClientConfig, version::TLS13};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Payloads and the calls in flight with each.
const CASES: [(usize, &[usize]); 3] = [
    (100, &[1, 16, 256]),
    (10_000, &[1, 16, 64]),
    (1_000_000, &[1, 8]),
];
const SOON: Duration = Duration::from_secs(20);

async fn echo(message: Message) -> Result<Bytes, FunctionError> {
    Ok(message.into_payload())
}

/// Config for a server or a client of this kind: `none`, `ingress` or `tls`, each in a
/// mesh of its own.
fn settings(etcd: &str, kind: &str, files: &Path) -> Config {
    let mut settings = Config::default()
        .etcd(vec![etcd.to_owned()])
        .prefix(format!("/{kind}"));
    if kind == "tls" {
        let Certificate { ca, cert, key } = certificate(files);
        settings.cacert = Some(ca);
        settings.cert = Some(cert);
        settings.key = Some(key);
    }
    settings
}

fn certificate(files: &Path) -> Certificate {
    let file = |name: &str| files.join(name);
    Certificate {
        ca: file("ca.pem"),
        cert: file("bench.cert.pem"),
        key: file("bench.key.pem"),
    }
}

async fn serve(etcd: String, kind: String, files: String, port: String) -> Outcome<()> {
    let settings = settings(&etcd, &kind, Path::new(&files)).port(port.parse()?);
    let server = Server::new("bench").function("echo", echo);
    let server = if kind == "none" {
        server.without_ingress()
    } else {
        server
    };
    Ok(server.join(settings).await?.serve(pending::<()>()).await?)
}

/// Returns the calls per second, and the median of their times in microseconds.
async fn turn(
    client: &Client,
    payload: &Bytes,
    in_flight: usize,
    time: Duration,
) -> Outcome<(f64, f64)> {
    let start = Instant::now();
    let caller = || async {
        let mut trips = Vec::new();
        while start.elapsed() < time {
            let sent = Instant::now();
            let answer = client.call("bench.echo", payload.clone()).await?;
            trips.push(sent.elapsed().as_secs_f64() * 1e6);
            assert_eq!(answer.len(), payload.len());
        }
        Outcome::Ok(trips)
    };
    let trips = try_join_all((0..in_flight).map(|_| caller()))
        .await?
        .concat();
    let per_second = f64::from(u32::try_from(trips.len())?) / start.elapsed().as_secs_f64();
    Ok((per_second, median(trips)))
}

/// Returns how many milliseconds it takes to connect and complete the handshakes,
/// with TLS or without.
fn open_connection(at: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Outcome<f64> {
    let start = Instant::now();
    match tls {
        None => drop(Wire::dealer(at)?),
        Some(config) => drop(tls_client::dial(at, Arc::clone(config))?),
    }
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Calls of one kind of server: in a second, and their median time.
type Turn = (f64, f64);

async fn calls(clients: [Client; 3], rounds: usize, time: Duration) -> Outcome<()> {
    println!(
        "| payload, B | in flight | calls/s without | ingress | TLS | ingress / without | TLS / without | TLS / ingress | p50, µs | ingress | TLS |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (size, all) in CASES {
        let payload = Bytes::from(vec![7; size]);
        for in_flight in all {
            let mut turns: Vec<[Turn; 3]> = Vec::new();
            for _ in 0..=rounds {
                let [none, ingress, tls] = &clients;
                let none = turn(none, &payload, *in_flight, time).await?;
                let ingress = turn(ingress, &payload, *in_flight, time).await?;
                turns.push([none, ingress, turn(tls, &payload, *in_flight, time).await?]);
            }
            // The first round only opened connections.
            turns.remove(0);
            let middle = |of: &dyn Fn(&[Turn; 3]) -> f64| median(turns.iter().map(of).collect());
            let rates = [0, 1, 2].map(|kind| middle(&|turn| turn[kind].0));
            let ratios = [(1, 0), (2, 0), (2, 1)]
                .map(|(one, other)| middle(&|turn| turn[one].0 / turn[other].0));
            let trips = [0, 1, 2].map(|kind| middle(&|turn| turn[kind].1));
            let cells = [
                rates.map(|rate| format!("{rate:.0}")),
                ratios.map(|ratio| format!("{ratio:.2}")),
            ];
            let cells = [
                cells.concat(),
                trips.map(|trip| format!("{trip:.0}")).to_vec(),
            ]
            .concat();
            println!("| {size} | {in_flight} | {} |", cells.join(" | "));
        }
    }
    Ok(())
}

fn handshakes(addresses: &[SocketAddr; 3], files: &Path, count: usize) -> Outcome<()> {
    let own = certificate(files);
    let config = tls_client::config(&own.ca, Some(&own), &TLS13);
    let (mut plain, mut tls) = (Vec::new(), Vec::new());
    for _ in 0..count {
        plain.push(open_connection(addresses[1], None)?);
        tls.push(open_connection(addresses[2], Some(&config))?);
    }
    println!(
        "\nto open a connection, one after the other, medians of {count}: {:.2} ms plain, {:.2} ms with TLS",
        median(plain),
        median(tls)
    );
    Ok(())
}

fn bench(rounds: usize, time: Duration) -> Outcome<()> {
    const KINDS: [&str; 3] = ["none", "ingress", "tls"];
    let me = env::current_exe()?;
    let etcd = Etcd::start();
    let authority = Authority::new("bench");
    drop(authority.issue("bench", &["127.0.0.1"]));
    let (endpoint, files) = (etcd.endpoint(), authority.folder());
    let ports = KINDS.map(|_| free_port());
    let start = |(kind, port): (&str, u16)| {
        Process::start(
            &me,
            [
                "serve",
                kind,
                &endpoint,
                &files.display().to_string(),
                &port.to_string(),
            ],
        )
    };
    let _servers: Vec<_> = KINDS.into_iter().zip(ports).map(start).collect();
    let clients = KINDS.map(|kind| {
        let options = settings(&endpoint, kind, files);
        block_on(Client::connect(options)).expect("a client")
    });
    for client in &clients {
        eventually("the server can be reached", SOON, || {
            (client.reachable().len() == 1).then_some(())
        });
    }
    println!("medians of {rounds} rounds of {time:?}\n");
    palm_peer::block_on(calls(clients, rounds, time))?;
    handshakes(
        &ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port))),
        files,
        20 * rounds,
    )
}

/// The arguments: a role, or the number of rounds
/// and the seconds of each turn.
fn main() -> Outcome<()> {
    let words = palm_tests::bench_words();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", kind, etcd, files, port] => {
            let [etcd, kind, files, port] = [etcd, kind, files, port].map(str::to_owned);
            palm_peer::block_on(serve(etcd, kind, files, port))
        }
        [rounds, seconds] => bench(rounds.parse()?, Duration::from_secs_f64(seconds.parse()?)),
        _ => bench(15, Duration::from_millis(250)),
    }
}
