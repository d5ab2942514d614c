//! A job that runs while something goes wrong.

use super::SOON;
use futures::{StreamExt as _, executor::block_on};
use palm_peer::{Bytes, Client, Progress};
use palm_tests::eventually;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Runs a job through `b.add` and `a.add`: [`while_a_job_runs_through`].
pub(crate) fn while_a_job_runs(client: &Client, trouble: impl FnOnce(&Progress)) {
    while_a_job_runs_through(client, &["b", "a"], trouble);
}

/// Runs a job through `add` of these servers until `trouble`, which has the time, is over. Every message ends in its result,
/// exactly once and in order.
pub(crate) fn while_a_job_runs_through(client: &Client, servers: &[&str], trouble: impl FnOnce(&Progress)) {
    let pipeline = servers.iter().map(|server| format!("{server}.add"));
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let given = (0_u64..).take_while(move |_| !stopped.load(Ordering::Relaxed));
    let job = client.job(pipeline).window(64, 1 << 20);
    let results = job.run_iter(given.map(|number| Bytes::from(format!("{number}:")))).expect("both are there");
    let progress = results.progress();
    let job = thread::spawn(move || block_on(results.collect::<Vec<_>>()));
    eventually("the job goes on", SOON, || (progress.done() > 500).then_some(()));
    trouble(&progress);
    stop.store(true, Ordering::Relaxed);
    let results = job.join().expect("no panic");
    println!("{} results, {} sent again", results.len(), progress.retried());
    for (at, (idx, result)) in results.iter().enumerate() {
        let result = result.as_ref().unwrap_or_else(|error| panic!("message {idx}: {error}"));
        assert_eq!((*idx, result), (at as u64, &Bytes::from(format!("{idx}:{}", servers.concat()))));
    }
}
