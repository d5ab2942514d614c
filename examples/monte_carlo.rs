//! Values a European call option by Monte Carlo, on many instances of one server at once.
//!
//! `cargo run --release --example monte_carlo -- --instances 2`, with etcd's URLs in `PALM_ETCD`.
//! The work is split into messages, which the instances share. The seed of the random numbers is in
//! the message, so a message that is retried on another instance gives the same result, and the
//! value does not depend on which instance computed it.
//!
//! The instances run in this process, each with one message at a time, as if each had a
//! core of its own.

use futures::{StreamExt as _, executor::block_on};
use palm_examples::{Hosted, READY_WITHIN};
use palm_peer::{Bytes, Client, Config, FunctionError, Message, Server};
use serde::{Deserialize, Serialize};
use std::{
    error::Error,
    f64::consts::{PI, SQRT_2},
    io::{self, Write as _},
    time::{Duration, Instant},
};

/// How many standard errors the result of the simulation may differ from the formula.
const AGREE_WITHIN: f64 = 4.0;

/// values a European call option by Monte Carlo
#[derive(argh::FromArgs)]
struct Flags {
    /// how many instances share the work (default 2)
    #[argh(option, default = "2")]
    instances: usize,
    /// how many messages the work is split into (default 100)
    #[argh(option, default = "100")]
    messages: u64,
    /// how many paths a message simulates (default 20000)
    #[argh(option, default = "20_000")]
    paths: u32,
}

/// The option to buy at the price `strike`, after this many `years`, an asset that
/// costs `spot` now.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Call {
    spot: f64,
    strike: f64,
    rate: f64,
    volatility: f64,
    years: f64,
}

/// The payload of a message.
#[derive(Serialize, Deserialize)]
struct Work {
    call: Call,
    seed: u64,
    paths: u32,
}

/// The result of a message, as sums that can be added.
#[derive(Default, Serialize, Deserialize)]
struct Sums {
    paths: f64,
    values: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, value: f64) {
        self.merge(&Self {
            paths: 1.0,
            values: value,
            squares: value * value,
        });
    }

    fn merge(&mut self, other: &Self) {
        self.paths += other.paths;
        self.values += other.values;
        self.squares += other.squares;
    }

    /// Returns the mean and its standard error.
    fn estimate(&self) -> (f64, f64) {
        let mean = self.values / self.paths;
        let variance =
            (self.squares / self.paths - mean * mean).max(0.0) * self.paths / (self.paths - 1.0);
        (mean, (variance / self.paths).sqrt())
    }
}

/// The function of the server. It is added as blocking, because it computes for long and would
/// block the executor.
fn price(message: Message) -> Result<Vec<u8>, FunctionError> {
    let Work { call, seed, paths } = serde_json::from_slice(message.payload())?;
    let mut random = fastrand::Rng::with_seed(seed);
    let drift = (call.rate - call.volatility * call.volatility / 2.0) * call.years;
    let spread = call.volatility * call.years.sqrt();
    let discount = (-call.rate * call.years).exp();
    let mut sums = Sums::default();
    for _ in 0..paths {
        let end = call.spot * (drift + spread * normal(&mut random)).exp();
        sums.add(discount * (end - call.strike).max(0.0));
    }
    Ok(serde_json::to_vec(&sums)?)
}

/// Returns a random number of the standard normal distribution (Box and Muller).
fn normal(random: &mut fastrand::Rng) -> f64 {
    // The argument is never 0, which has no logarithm.
    let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
    radius * (2.0 * PI * random.f64()).cos()
}

/// Returns the value by the formula of Black and Scholes.
fn black_scholes(call: Call) -> f64 {
    let Call {
        spot,
        strike,
        rate,
        volatility,
        years,
    } = call;
    let spread = volatility * years.sqrt();
    let d1 = ((spot / strike).ln() + (rate + volatility * volatility / 2.0) * years) / spread;
    let below = |x: f64| f64::midpoint(1.0, erf(x / SQRT_2));
    spot * below(d1) - strike * (-rate * years).exp() * below(d1 - spread)
}

/// Returns the error function, by its series, which is exact enough for the small arguments here.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > f64::EPSILON * sum.abs() {
        n += 1.0;
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    2.0 / PI.sqrt() * sum
}

/// Sends all the work, and adds up the results, in order, so that the sum is the same
/// to the last bit.
async fn simulate(
    client: &Client,
    call: Call,
    flags: &Flags,
) -> Result<(Sums, Duration), Box<dyn Error>> {
    let start = Instant::now();
    let paths = flags.paths;
    let work = (0..flags.messages)
        .map(move |seed| serde_json::to_vec(&Work { call, seed, paths }).unwrap_or_default());
    let mut results = client
        .job(["pricer.price"])
        .run_iter(work.map(Bytes::from))?;
    let mut total = Sums::default();
    while let Some((idx, result)) = results.next().await {
        let sums = result.map_err(|error| format!("message {idx}: {error}"))?;
        total.merge(&serde_json::from_slice(&sums)?);
    }
    Ok((total, start.elapsed()))
}

fn start_pricer(options: &Config) -> Result<Hosted, palm_peer::Error> {
    Hosted::start(
        Server::new("pricer").blocking("price", price),
        options.clone(),
    )
}

fn main() -> Result<(), Box<dyn Error>> {
    let flags: Flags = argh::from_env();
    if flags.instances == 0 || flags.messages == 0 || flags.paths < 2 {
        return Err("there must be an instance, a message, and two paths in it".into());
    }
    let call = Call {
        spot: 100.0,
        strike: 105.0,
        rate: 0.03,
        volatility: 0.2,
        years: 1.0,
    };
    let options = Config::from_env()?.max_in_flight(1);
    let client = block_on(Client::connect(options.clone()))?;

    let mut pricers = Vec::new();
    let mut took = Vec::new();
    let mut sums = Sums::default();
    // First with one instance, for comparison; the others join afterwards.
    for instances in if flags.instances > 1 {
        vec![1, flags.instances]
    } else {
        vec![1]
    } {
        while pricers.len() < instances {
            pricers.push(start_pricer(&options)?);
        }
        block_on(client.wait_for("pricer", instances, READY_WITHIN))?;
        let (total, time) = block_on(simulate(&client, call, &flags))?;
        writeln!(
            io::stdout(),
            "{:.0} paths on {instances} of {} instances in {time:.2?}",
            total.paths,
            flags.instances
        )?;
        sums = total;
        took = [took, vec![time.as_secs_f64()]].concat();
    }
    if let [one, all] = took[..] {
        writeln!(io::stdout(), "speed-up: {:.2}", one / all)?;
    }

    let (value, error) = sums.estimate();
    let formula = black_scholes(call);
    writeln!(
        io::stdout(),
        "Monte Carlo:   {value:.4}, standard error {error:.4}"
    )?;
    writeln!(
        io::stdout(),
        "Black-Scholes: {formula:.4}, {:.1} standard errors away",
        (value - formula).abs() / error
    )?;
    if (value - formula).abs() > AGREE_WITHIN * error {
        return Err(format!("they are more than {AGREE_WITHIN} standard errors apart").into());
    }
    Ok(())
}
