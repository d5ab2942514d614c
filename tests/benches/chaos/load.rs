//! A client that calls each server continuously, and streams a job through them.

use bytes::Bytes;
use futures::{StreamExt as _, executor::block_on, stream};
use palm_peer::{Client, Progress};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const PIPELINE: [&str; 2] = ["b.add", "a.add"];
/// Messages of the job that are started together, and how often.
const MESSAGES: u64 = 10;
const PAUSE: Duration = Duration::from_millis(50);
/// How often each server is called.
const CALL_PERIOD: Duration = Duration::from_millis(100);
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
const JOB_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The times of successes.
#[derive(Debug, Default)]
pub(crate) struct Successes(Mutex<Vec<Instant>>);

impl Successes {
    fn add(&self) {
        lock(&self.0).push(Instant::now());
    }

    /// The first one since.
    pub(crate) fn first_since(&self, since: Instant) -> Option<Instant> {
        lock(&self.0).iter().copied().find(|at| *at >= since)
    }

    /// Returns the longest time without a success that overlaps the time from `begin` to `end`.
    /// Drops earlier ones.
    pub(crate) fn longest_gap(&self, begin: Instant, end: Instant) -> Duration {
        let mut all = lock(&self.0);
        let last_before = all.iter().rposition(|at| *at < begin).unwrap_or(0);
        all.drain(..last_before);
        let mut longest = Duration::ZERO;
        let mut since = begin;
        for at in all
            .iter()
            .copied()
            .chain([end])
            .filter(|at| (begin..=end).contains(at))
        {
            longest = longest.max(at - since);
            since = at;
        }
        longest
    }
}

/// The results of the job so far.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub results: u64,
    pub errors: Vec<String>,
    pub wrong: Vec<String>,
}

/// Calls and a job that go on until they are stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    pub progress: Progress,
    pub results: Arc<Successes>,
    pub outcome: Arc<Mutex<Outcome>>,
    /// In the order of the servers.
    pub calls: Vec<Arc<Successes>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(client: &Client, servers: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let (counted, stopped) = (Arc::clone(&sent), Arc::clone(&stop));
        let messages = stream::unfold((), move |()| {
            let (counted, stopped) = (Arc::clone(&counted), Arc::clone(&stopped));
            async move {
                smol::Timer::after(PAUSE).await;
                let first = counted.load(Ordering::Relaxed);
                let go_on = !stopped.load(Ordering::Relaxed);
                counted.fetch_add(if go_on { MESSAGES } else { 0 }, Ordering::Relaxed);
                go_on.then(|| {
                    (
                        stream::iter(
                            (first..first + MESSAGES)
                                .map(|number| Bytes::from(format!("{number}:"))),
                        ),
                        (),
                    )
                })
            }
        });
        let mut job = client
            .job(PIPELINE)
            .timeout(JOB_TIMEOUT)
            .run(messages.flatten().boxed())
            .expect("both are there");
        let (progress, outcome, results) = (
            job.progress(),
            Arc::<Mutex<Outcome>>::default(),
            Arc::<Successes>::default(),
        );
        let taken = Arc::clone(&outcome);
        let mut threads = vec![thread::spawn(move || {
            block_on(async {
                while let Some((idx, result)) = job.next().await {
                    let mut outcome = lock(&taken);
                    if idx != outcome.results {
                        let expected = outcome.results;
                        outcome
                            .wrong
                            .push(format!("message {idx} came in place of {expected}"));
                    }
                    outcome.results += 1;
                    match result {
                        Ok(result) if result == format!("{idx}:ba") => {}
                        Ok(result) => outcome
                            .wrong
                            .push(format!("message {idx} became {result:?}")),
                        Err(error) => outcome.errors.push(format!("message {idx}: {error}")),
                    }
                }
            });
        })];
        threads.push(watch_progress(
            progress.clone(),
            Arc::clone(&results),
            Arc::clone(&stop),
        ));
        let calls: Vec<_> = servers
            .iter()
            .map(|_| Arc::<Successes>::default())
            .collect();
        for (server, successes) in servers.iter().zip(&calls) {
            threads.push(call(
                client.clone(),
                server,
                Arc::clone(successes),
                Arc::clone(&stop),
            ));
        }
        Self {
            stop,
            sent,
            progress,
            results,
            outcome,
            calls,
            threads,
        }
    }

    /// Stops it, and waits until each message has ended. Returns how many there were.
    pub(crate) fn finish(self) -> (u64, Outcome) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no thread panics");
        }
        (
            self.sent.load(Ordering::Relaxed),
            std::mem::take(&mut lock(&self.outcome)),
        )
    }
}

fn call(
    client: Client,
    server: &str,
    successes: Arc<Successes>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<()> {
    let target = format!("{server}._ping");
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            if block_on(
                client
                    .call(&*target, "")
                    .timeout(CALL_TIMEOUT)
                    .into_future(),
            )
            .is_ok()
            {
                successes.add();
            }
            thread::sleep(CALL_PERIOD);
        }
    })
}

/// Results come in the order of the messages: a late one delays those behind it,
/// though they are done.
fn watch_progress(
    progress: Progress,
    results: Arc<Successes>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut done = progress.done();
        while !stop.load(Ordering::Relaxed) {
            if progress.done() > done {
                done = progress.done();
                results.add();
            }
            thread::sleep(Duration::from_millis(20));
        }
    })
}
