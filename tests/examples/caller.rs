//! A client that calls a server that may be hostile, then a good one, prints both results, and
//! stays there with its connections: `caller rogue.f text.shout`. With `--job`, it streams
//! through both instead. With `--hold`, it starts a job of the first alone, takes one result, and
//! polls no further.
//!
//! For tests of what a hostile server does to its clients, observed from outside.

use futures::{StreamExt as _, executor::block_on};
use palm_peer::{Bytes, Client, Config};
use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// calls both
#[derive(argh::FromArgs)]
struct Caller {
    /// what may be hostile
    #[argh(positional)]
    bad: String,
    /// what is not
    #[argh(positional)]
    good: String,
    /// stream through both
    #[argh(switch)]
    job: bool,
    /// start a job of the first, and hold its results after one
    #[argh(switch)]
    hold: bool,
}

/// The timeout of a server that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Waits until the server can be reached, at most for a while: a hostile one may have been
/// removed already.
fn see(client: &Client, target: &str) {
    let server = target.split('.').next().unwrap_or_default();
    let end = Instant::now() + 2 * PATIENCE;
    while Instant::now() < end
        && !client
            .reachable()
            .iter()
            .any(|reachable| reachable.server == server)
    {
        thread::sleep(Duration::from_millis(5));
    }
}

async fn call(client: &Client, target: &str, time: Duration) -> String {
    match client.call(target, "hello").timeout(time).await {
        Ok(answer) => format!("ok {}", answer.len()),
        Err(error) => format!("error {}", error.kind()),
    }
}

async fn stream(client: &Client, pipeline: &[&str], time: Duration) -> String {
    let words = (0..20).map(|number| Bytes::from(format!("word {number}")));
    let job = client.job(pipeline.to_vec()).timeout(time).attempts(2);
    match job.run_iter(words) {
        Ok(results) => {
            let ended: Vec<_> = results.map(|(_, result)| result.is_ok()).collect().await;
            format!(
                "ended {} of them well {}",
                ended.len(),
                ended.iter().filter(|ok| **ok).count()
            )
        }
        Err(error) => format!("error {}", error.kind()),
    }
}

/// Takes one result of a job with a small window, prints it, and leaves the others.
fn hold(client: &Client, target: &str) -> Result<(), Box<dyn std::error::Error>> {
    let words = (0..2000).map(|number| Bytes::from(format!("{number}")));
    let mut results = client.job([target]).window(4, 1 << 20).run_iter(words)?;
    let first = block_on(results.next()).ok_or("no result")?;
    println!(
        "holding after {}",
        if first.1.is_ok() {
            "a result"
        } else {
            "an error"
        }
    );
    loop {
        thread::park();
    }
}

fn run(caller: &Caller) -> Result<(), Box<dyn std::error::Error>> {
    let client = block_on(Client::connect(Config::from_env()?))?;
    see(&client, &caller.bad);
    see(&client, &caller.good);
    if caller.hold {
        return hold(&client, &caller.bad);
    }
    let minute = Duration::from_secs(60);
    let (bad, good) = if caller.job {
        let (good, bad) = (caller.good.as_str(), caller.bad.as_str());
        (
            block_on(stream(&client, &[good, bad, good], PATIENCE)),
            block_on(stream(&client, &[good, good], minute)),
        )
    } else {
        (
            block_on(call(&client, &caller.bad, PATIENCE)),
            block_on(call(&client, &caller.good, minute)),
        )
    };
    println!("bad: {bad}");
    println!("good: {good}");
    loop {
        thread::park();
    }
}

fn main() -> ExitCode {
    if let Err(error) = run(&argh::from_env()) {
        eprintln!("{error}");
    }
    ExitCode::FAILURE
}
