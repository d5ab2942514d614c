//! How the cost of a mesh grows with the number of its servers: `make scale N="100 1000"`;
//! docs/benchmarks.md says more.
//!
//! For each N: an etcd, a leader and the next candidates as real processes, N simulated servers,
//! clients, and typical events: servers join, restart and are called, the leader is killed, etcd is
//! down. Prints a line for each N in each table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod bounds;
mod calls;
mod cli;
mod etcd_outage;
mod failover;
mod restarts;
mod roles;
#[path = "../../simulated/mod.rs"]
mod simulated;
mod size;
mod steady;
mod supervisor;
mod table;
mod world;

use palm_tests::binary;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{error::Error, time::Duration};
use table::{Row, Table};
use world::{Plan, World};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The default sizes.
const N: usize = 100;

/// Returns the argument `name=…` of the command line as a number.
fn number(words: &[&str], name: &str, default: usize) -> Outcome<usize> {
    let word = words
        .iter()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    Ok(word.map_or(Ok(default), str::parse)?)
}

fn main() -> Outcome<()> {
    let words = palm_tests::bench_words();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["peers", etcd, name, count] => roles::peers(etcd, name, count.parse()?),
        ["roll", etcd, name, count] => roles::roll(etcd, name, count.parse()?),
        ["watchers", etcd, count] => roles::watchers(etcd, count.parse()?),
        ["caller", etcd, target] => roles::caller(etcd, target),
        ["load", etcd, target, in_flight] => roles::load(etcd, target, in_flight.parse()?),
        ["measure", ref words @ ..] => measure(words),
        ref words => supervisor::run(words),
    }
}

/// Measures every N that the words name, and prints the tables.
fn measure(words: &[&str]) -> Outcome<()> {
    let mut sizes: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    if sizes.is_empty() {
        sizes.push(N);
    }
    let real = number(words, "real", 0)?;
    let clients = number(words, "clients", 50)?;
    let restarts = number(words, "restarts", 20)?;
    let only = words.iter().find_map(|word| word.strip_prefix("only="));
    raise_limit(sizes.iter().copied().max().unwrap_or(N))?;
    // Checked first, to fail early if it is missing.
    let _ = binary("palm-cli");
    let mut tables = Vec::new();
    for n in sizes {
        let plan = Plan {
            n,
            real: real.min(n),
            clients,
            restarts,
        };
        eprintln!("scale: {plan:?}");
        table::merge(
            &mut tables,
            rows(plan, &|name| {
                only.is_none_or(|only| only.split(',').any(|word| word == name))
            }),
        );
        // Later steps may fail or be interrupted.
        tables.iter().for_each(Table::progress);
    }
    tables.iter().for_each(Table::print);
    Ok(())
}

/// Makes one line of one table.
type Measure = fn(&mut World) -> Row;

/// Measures the tables that are wanted, at one N.
fn rows(plan: Plan, wanted: &dyn Fn(&str) -> bool) -> Vec<Row> {
    let (mut world, formed) = World::form(plan);
    let mut rows = Vec::new();
    if wanted("size") || wanted("steady") {
        let steady = steady::measure(&world);
        if wanted("size") {
            rows.push(size::measure(&mut world, formed, steady.etcd_out));
        }
        rows.push(steady.row);
    }
    let measures: [(&str, Measure); 6] = [
        ("restarts", |world| restarts::measure(world)),
        ("failover", failover::measure),
        ("bounds", bounds::measure),
        ("away", etcd_outage::measure),
        ("calls", |world| calls::measure(world)),
        ("cli", |world| cli::measure(world)),
    ];
    rows.extend(
        measures
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(_, measure)| measure(&mut world)),
    );
    rows
}

/// Raises the limit of file descriptors of this process and its children to what this many servers
/// need: each listens, and accepts connections of the leader, the next candidates and some clients.
fn raise_limit(n: usize) -> Outcome<()> {
    let wanted = u64::try_from(3 * n + 1000)?;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    if most < wanted {
        return Err(
            format!("{n} servers take {wanted} file descriptors, and only {most} are allowed: see ulimit -Hn").into()
        );
    }
    let current = limit.current.map(|current| current.max(most.min(wanted)));
    Ok(setrlimit(Resource::Nofile, Rlimit { current, ..limit })?)
}

/// Returns the timeout of any step of a mesh of this size.
fn patience(n: usize) -> Duration {
    Duration::from_secs(60) + Duration::from_millis(20) * u32::try_from(n).unwrap_or(u32::MAX)
}
