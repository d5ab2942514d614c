//! A mesh whose network fails in every way: checks that no healthy server is removed, no message is
//! lost, and the mesh recovers.
//!
//! `make chaos`, or `cargo bench --profile dev -p palm-tests --bench chaos -- seconds=600 seeds=3`.
//! Five hosts, each a network namespace with a server; three of them have a member of etcd as well.
//! A client on a sixth calls each server and streams a job through them. First each link between
//! two hosts, and each host, fails in each way for a while; then several of them together, at
//! random, for `seconds` with each of `seeds`. Arguments: `hold=` seconds that a fault lasts,
//! `every=` n-th of the first part only, `lenience=` seconds that a bound may be exceeded by on a
//! busy machine, `only=` one fault of the first part, as it is printed but without spaces
//! (`only=b>erejected`), `skip=` random steps of each seed, and only `steps=` after them: what the
//! seed has there, without what came before. Fails when an invariant does not hold
//! (docs/reliability.md).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod fault;
#[allow(dead_code)]
#[path = "../../tests/common/history.rs"]
mod history;
mod load;
mod view;
mod world;

use fault::Fault;
use futures::executor::block_on;
use palm_tests::Network;
use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};
use world::{Row, World};

/// Set by SIGINT and SIGTERM: the current step is finished and cleaned up.
static STOP: AtomicBool = AtomicBool::new(false);

/// The parameters.
struct Plan {
    hold: Duration,
    every: usize,
    seconds: u64,
    seeds: u64,
    lenience: Duration,
    only: Option<String>,
    /// Of the random steps of each seed, how many are skipped, and how many follow.
    skip: usize,
    steps: usize,
}

impl Plan {
    /// `cargo bench` adds `--bench`; arguments with `=` are ours.
    fn from_args() -> Result<Self, String> {
        let mut plan = Self {
            hold: Duration::from_secs(12),
            every: 1,
            seconds: 600,
            seeds: 3,
            lenience: Duration::from_secs(1),
            only: None,
            skip: 0,
            steps: usize::MAX,
        };
        for word in palm_tests::bench_words() {
            let (name, value) = word
                .split_once('=')
                .ok_or_else(|| format!("{word} is not NAME=NUMBER"))?;
            if name == "only" {
                plan.only = Some(value.to_owned());
                continue;
            }
            let number: u64 = value.parse().map_err(|error| format!("{word}: {error}"))?;
            match name {
                "hold" => plan.hold = Duration::from_secs(number),
                "every" => plan.every = usize::try_from(number).unwrap_or(1).max(1),
                "seconds" => plan.seconds = number,
                "seeds" => plan.seeds = number,
                "skip" => plan.skip = usize::try_from(number).unwrap_or(usize::MAX),
                "steps" => plan.steps = usize::try_from(number).unwrap_or(usize::MAX),
                "lenience" => plan.lenience = Duration::from_secs(number),
                _ => {
                    return Err(format!(
                        "{name} is none of hold, every, seconds, seeds, skip, steps, lenience, only"
                    ));
                }
            }
        }
        Ok(plan)
    }
}

/// The results of all steps.
#[derive(Default)]
struct Sum {
    steps: usize,
    removed: usize,
    expired: usize,
    retried: u64,
    call_gap: Duration,
    job_gap: Duration,
    healthy: Duration,
    violations: Vec<String>,
}

impl Sum {
    fn heading() {
        println!(
            "| fault | removed by the leader | leases ended | new leaders | longest without an answer | longest without a result | sent again | healthy after |"
        );
        println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    }

    fn add(&mut self, row: Row) {
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            row.faults,
            row.removed,
            row.expired,
            row.leaders,
            seconds(row.call_gap),
            seconds(row.job_gap),
            row.retried,
            row.healthy.map_or("never".into(), seconds),
        );
        for violation in &row.violations {
            println!("VIOLATION: {violation}");
        }
        self.steps += 1;
        self.removed += row.removed;
        self.expired += row.expired;
        self.retried += row.retried;
        self.call_gap = self.call_gap.max(row.call_gap);
        self.job_gap = self.job_gap.max(row.job_gap);
        self.healthy = self.healthy.max(row.healthy.unwrap_or_default());
        self.violations.extend(
            row.violations
                .into_iter()
                .map(|violation| format!("{}: {violation}", row.faults)),
        );
    }
}

/// Each fault by itself.
fn one_by_one(plan: &Plan, world: &mut World<'_>, sum: &mut Sum) {
    println!("\nEach link and each host in turn, {:?} each:\n", plan.hold);
    Sum::heading();
    let wanted = |fault: &Fault| {
        plan.only
            .as_ref()
            .is_none_or(|only| fault.to_string().replace(' ', "") == *only)
    };
    for fault in Fault::all().into_iter().step_by(plan.every).filter(wanted) {
        if STOP.load(Ordering::Relaxed) {
            return;
        }
        sum.add(world.step(&[fault], plan.hold));
    }
}

/// One to four at a time, for as long as 2 s or as `hold`.
fn at_random(plan: &Plan, seed: u64, world: &mut World<'_>, sum: &mut Sum) {
    println!("\nAt random, seed {seed}, {} s:\n", plan.seconds);
    Sum::heading();
    let mut random = fastrand::Rng::with_seed(seed);
    let begin = Instant::now();
    let all = Fault::all();
    let end = plan.skip.saturating_add(plan.steps);
    for step in 0..end {
        if begin.elapsed().as_secs() >= plan.seconds || STOP.load(Ordering::Relaxed) {
            return;
        }
        let count = random.usize(1..=4);
        let faults: Vec<_> = random
            .choose_multiple(&all, count)
            .into_iter()
            .copied()
            .collect();
        let longest = u64::try_from(plan.hold.as_millis())
            .unwrap_or(u64::MAX)
            .max(2001);
        let hold = Duration::from_millis(random.u64(2000..longest));
        if step >= plan.skip {
            sum.add(world.step(&faults, hold));
        }
    }
}

fn run(plan: &Plan) -> bool {
    let Some(network) = Network::start(&fault::HOSTS) else {
        return true;
    };
    let stopped = palm_peer::signals().expect("the system tells of signals");
    thread::spawn(move || {
        block_on(stopped);
        STOP.store(true, Ordering::Relaxed);
    });
    let mut world = World::start(&network, plan.lenience);
    let mut sum = Sum::default();
    one_by_one(plan, &mut world, &mut sum);
    for seed in 1..=plan.seeds {
        at_random(plan, seed, &mut world, &mut sum);
    }
    let (sent, wrong) = world.finish();
    let logs = world.logs();
    sum.violations.extend(wrong);
    println!(
        "\n{} steps: {} servers removed by a leader, {} leases ended, {sent} messages ({} sent again); at most {:.1?} without an answer, \
         {:.1?} without a result, {:.1?} until all was healthy again; {} violations",
        sum.steps,
        sum.removed,
        sum.expired,
        sum.retried,
        sum.call_gap,
        sum.job_gap,
        sum.healthy,
        sum.violations.len()
    );
    if !sum.violations.is_empty() {
        println!("\n{logs}\nVIOLATIONS:\n{}", sum.violations.join("\n"));
    }
    sum.violations.is_empty()
}

fn main() -> ExitCode {
    match Plan::from_args() {
        Ok(plan) if run(&plan) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error}");
            ExitCode::from(2)
        }
    }
}
