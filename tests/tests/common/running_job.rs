//! A job that runs during failures.

use super::SOON;
use async_std::task;
use futures::{
    StreamExt as _,
    executor::block_on,
    stream::{self, BoxStream},
};
use palm_peer::{Bytes, Client, Progress};
use palm_tests::eventually;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How many messages of a paced job follow each other at once, and the pause after them.
const BATCH: (u64, Duration) = (16, Duration::from_millis(4));

/// Runs a job through `b.add` and `a.add`: [`while_a_job_runs_through`].
pub(crate) fn while_a_job_runs(client: &Client, trouble: impl FnOnce(&Progress)) {
    while_a_job_runs_through(client, &["b", "a"], trouble);
}

/// Runs a job through `add` of these servers until `trouble`, which has the time, is over. Every
/// message ends in its result, exactly once and in order. Messages come by the thousand a second,
/// and leave the machine to other tests.
pub(crate) fn while_a_job_runs_through(
    client: &Client,
    servers: &[&str],
    trouble: impl FnOnce(&Progress),
) {
    let paced = |numbers| {
        let pause = |number| async move {
            if number % BATCH.0 == 0 {
                task::sleep(BATCH.1).await;
            }
            number
        };
        stream::iter(numbers).then(pause).boxed()
    };
    run(client, servers, paced, trouble);
}

/// As [`while_a_job_runs`], with as many messages as the servers can take.
pub(crate) fn while_a_job_runs_at_full_speed(client: &Client, trouble: impl FnOnce(&Progress)) {
    run(
        client,
        &["b", "a"],
        |numbers| stream::iter(numbers).boxed(),
        trouble,
    );
}

type Numbers = Box<dyn Iterator<Item = u64> + Send>;

fn run(
    client: &Client,
    servers: &[&str],
    input: impl FnOnce(Numbers) -> BoxStream<'static, u64>,
    trouble: impl FnOnce(&Progress),
) {
    let pipeline = servers.iter().map(|server| format!("{server}.add"));
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let numbers = (0_u64..).take_while(move |_| !stopped.load(Ordering::Relaxed));
    let messages = input(Box::new(numbers)).map(|number| Bytes::from(format!("{number}:")));
    let results = client
        .job(pipeline)
        .window(64, 1 << 20)
        .run(messages)
        .expect("both are there");
    let progress = results.progress();
    let job = thread::spawn(move || block_on(results.collect::<Vec<_>>()));
    eventually("the job goes on", SOON, || {
        (progress.done() > 500).then_some(())
    });
    trouble(&progress);
    stop.store(true, Ordering::Relaxed);
    let results = job.join().expect("no panic");
    println!(
        "{} results, {} sent again",
        results.len(),
        progress.retried()
    );
    for (at, (idx, result)) in results.iter().enumerate() {
        let result = result
            .as_ref()
            .unwrap_or_else(|error| panic!("message {idx}: {error}"));
        assert_eq!(
            (*idx, result),
            (
                at as u64,
                &Bytes::from(format!("{idx}:{}", servers.concat()))
            )
        );
    }
}
