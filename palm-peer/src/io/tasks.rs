//! The library's tasks: each has a name, and no panic goes unnoticed.
//!
//! Everything that runs in the background is spawned under a name, and its panic is caught and
//! logged. Tasks that the server cannot do without are also [kept](Supervisor::keep): restarted
//! after a while, until the supervisor gives up.

pub(crate) use super::threads::Name;

use super::{
    rigged::rigged,
    threads::{self, ObservesThreads, may_log, say},
    timer,
};
use crate::sync::Counter;
use futures::{
    FutureExt as _,
    channel::{mpsc, oneshot},
    executor::block_on,
};
use palm_proto::{
    supervision::{Decision, Supervision},
    types::text::panic_message,
};
use std::{
    future::{Future, pending},
    io,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// The wait before a thread whose work panicked continues.
const THREAD_REST: Duration = Duration::from_millis(100);

/// Runs a future; a panic ends it, and is returned as its message, for the caller to log.
///
/// The future is boxed at once: each `async` function that passes it on unboxed would contain it
/// twice, and there is one of these for every connection.
pub(crate) fn caught<T>(
    name: Name,
    future: impl Future<Output = T>,
) -> impl Future<Output = Result<T, String>> {
    let future = Box::pin(future);
    // It is also dropped inside, so that a panic while dropping is caught.
    let inside = async move { rigged(name, future).await };
    AssertUnwindSafe(inside)
        .catch_unwind()
        .map(|result| result.map_err(panic_message))
}

/// As [`caught`], and logs the panic, once a minute per name, because remote peers may cause it.
pub(crate) fn logged<T>(
    name: Name,
    future: impl Future<Output = T>,
) -> impl Future<Output = Result<T, String>> {
    caught(name, future).inspect(move |result| {
        if let Err(message) = result
            && may_log(name)
        {
            say(&format!(
                "task {name} panicked: {message} (logged once a minute)"
            ));
        }
    })
}

/// Runs the future that `start` returns to its end, on a thread of its own that nothing else can
/// block. After a panic it is restarted, however often, and the supervisor only counts it: for what
/// a server can do without. Fails when the system refuses a thread.
pub(crate) fn run_on_thread<F: Future<Output = ()>>(
    supervisor: &Supervisor,
    name: Name,
    known_as: &str,
    mut start: impl FnMut() -> F + Send + 'static,
) -> io::Result<()> {
    let state = Arc::clone(&supervisor.state);
    threads::start_thread(name, known_as, move || {
        while block_on(logged(name, async { start().await })).is_err() {
            state.failures.increment();
            thread::sleep(THREAD_REST);
        }
        Ok(())
    })
}

/// The state shared by the clones of a supervisor.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    failures: Counter,
}

#[derive(Debug, Default)]
struct State {
    supervision: Supervision,
    /// The message about the task that failed too often.
    gave_up: Option<String>,
    waiting: Vec<oneshot::Sender<String>>,
    listeners: Vec<mpsc::UnboundedSender<Name>>,
}

impl Shared {
    /// Counts a failure. Returns after which time to restart, if at all.
    fn record(&self, name: Name, failure: &str, attended: bool) -> Option<Duration> {
        self.failures.increment();
        let mut state = self.lock();
        if state.gave_up.is_some() {
            return None;
        }
        let decision = state.supervision.failed(Instant::now(), fastrand::f64());
        state
            .listeners
            .retain(|listener| listener.unbounded_send(name).is_ok());
        match decision {
            Decision::GiveUp(_) if attended => {
                let message = format!("{failure}; that is the third failure within a minute");
                state.gave_up = Some(message.clone());
                let waiting = std::mem::take(&mut state.waiting);
                drop(state);
                say(&format!("{message}: giving up"));
                for waiting in waiting {
                    let _ = waiting.send(message.clone());
                }
                None
            }
            Decision::Restart(wait) | Decision::GiveUp(wait) => Some(wait),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObservesThreads for Shared {
    fn thread_failed(&self, name: Name, failure: &str) {
        self.record(name, failure, true);
    }
}

/// Restarts tasks that panicked, and gives up at the third panic within a minute.
#[derive(Debug, Clone)]
pub(crate) struct Supervisor {
    state: Arc<Shared>,
    /// Whether giving up is observed. Otherwise it never gives up.
    attended: bool,
}

impl Supervisor {
    /// Returns a supervisor for a server, which ends when this gives up.
    pub(crate) fn attended() -> Self {
        let state = Arc::default();
        threads::observe(&state);
        Self {
            state,
            attended: true,
        }
    }

    /// Returns a supervisor for a client, which never gives up.
    pub(crate) fn unattended() -> Self {
        Self {
            state: Arc::default(),
            attended: false,
        }
    }

    /// Runs the future that `start` returns to its end. After a panic it is
    /// restarted after a while.
    pub(crate) async fn keep<T, F: Future<Output = T>>(
        self,
        name: Name,
        mut start: impl FnMut() -> F,
    ) -> T {
        loop {
            match caught(name, async { start().await }).await {
                Ok(value) => return value,
                Err(message) => {
                    if !self.failed(name, &message).await {
                        pending::<()>().await;
                    }
                }
            }
        }
    }

    /// Handles the panic of a task. Returns, after a while, whether to restart it.
    pub(crate) async fn failed(&self, name: Name, message: &str) -> bool {
        let failure = format!("task {name} panicked: {message}");
        match self.state.record(name, &failure, self.attended) {
            Some(wait) => {
                say(&format!("{failure}; it restarts in {wait:.1?}"));
                timer::sleep(wait).await;
                true
            }
            None => false,
        }
    }

    /// Returns how often a task or thread has failed.
    pub(crate) fn failed_tasks(&self) -> u64 {
        self.state.failures.get()
    }

    /// Returns a stream of the names of the tasks that fail from now on.
    pub(crate) fn failures(&self) -> mpsc::UnboundedReceiver<Name> {
        let (tx, rx) = mpsc::unbounded();
        let mut state = self.state.lock();
        state.listeners.retain(|listener| !listener.is_closed());
        state.listeners.push(tx);
        drop(state);
        rx
    }

    /// Returns a future that ends when this has given up, with the message.
    pub(crate) fn gave_up(&self) -> impl Future<Output = String> + Send + Unpin + use<> {
        let (tx, rx) = oneshot::channel();
        let mut state = self.state.lock();
        state.waiting.retain(|waiting| !waiting.is_canceled());
        match state.gave_up.clone() {
            Some(message) => drop(tx.send(message)),
            None => state.waiting.push(tx),
        }
        drop(state);
        // The waiting future holds the supervisor.
        rx.map(|message| message.unwrap_or_else(|_| "the supervisor ended".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;

    /// A supervisor that does not observe the threads that other tests make panic.
    fn alone() -> Supervisor {
        Supervisor {
            state: Arc::default(),
            attended: true,
        }
    }

    #[test]
    fn a_task_that_panics_is_restarted_and_reported() {
        let supervisor = alone();
        let mut failures = supervisor.failures();
        let mut runs = 0;
        let value = block_on(supervisor.clone().keep(Name::Test, || {
            runs += 1;
            let run = runs;
            async move {
                assert!(run > 1, "on purpose");
                run
            }
        }));
        assert_eq!(value, 2);
        assert_eq!(failures.try_recv().expect("heard"), Name::Test);
        assert!(supervisor.gave_up().now_or_never().is_none());
    }

    #[test]
    fn dropped_listeners_are_removed() {
        let supervisor = alone();
        for _ in 0..100_000 {
            drop((supervisor.failures(), supervisor.gave_up()));
        }
        let state = supervisor.state.lock();
        assert_eq!((state.listeners.len(), state.waiting.len()), (1, 1));
    }

    #[test]
    fn three_panics_end_a_server_but_not_a_client() {
        for supervisor in [alone(), Supervisor::unattended()] {
            let waits: Vec<_> = (0..4)
                .map(|_| {
                    supervisor
                        .state
                        .record(Name::Test, "on purpose", supervisor.attended)
                })
                .collect();
            let attended = supervisor.attended;
            assert_eq!(
                waits.iter().map(Option::is_none).collect::<Vec<_>>(),
                [false, false, attended, attended]
            );
            let message = supervisor.gave_up().now_or_never();
            assert_eq!(
                message.is_some_and(|message| message.contains("on purpose; that is the third")),
                attended
            );
        }
    }
}
