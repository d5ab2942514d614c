//! Tasks of the library's own: each has a name, and none ends by a panic that nobody sees.
//!
//! Everything that runs in the background is spawned under a name, and its panic is caught and logged with it. What the
//! server cannot do without is [kept](Supervisor::keep) as well: started anew after a while, until that is of no use.

pub(crate) use super::threads::Name;

use super::{
    rigged::rigged,
    threads::{self, ObservesThreads, may_log, say},
    timer,
};
use futures::{
    FutureExt as _,
    channel::{mpsc, oneshot},
};
use palm_proto::{
    supervision::{Decision, Supervision},
    types::text::panic_message,
};
use std::{
    future::{Future, pending},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Runs a future; a panic ends it, and is given back as its message, for the caller to log.
///
/// The future is boxed at once: each `async` function that it went through unboxed would hold it twice, and there is one of these for
/// every connection.
pub(crate) fn caught<T>(name: Name, future: impl Future<Output = T>) -> impl Future<Output = Result<T, String>> {
    let future = Box::pin(future);
    // It is dropped inside as well, where its own panic is caught.
    let inside = async move { rigged(name, future).await };
    AssertUnwindSafe(inside).catch_unwind().map(|result| result.map_err(panic_message))
}

/// As [`caught`], and logs the panic: of each name once a minute, for strangers may bring it about.
pub(crate) fn logged<T>(name: Name, future: impl Future<Output = T>) -> impl Future<Output = Result<T, String>> {
    caught(name, future).inspect(move |result| {
        if let Err(message) = result
            && may_log(name)
        {
            say(&format!("task {name} panicked: {message} (logged once a minute)"));
        }
    })
}

/// What the clones of a supervisor share.
#[derive(Debug, Default)]
struct Shared(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    supervision: Supervision,
    /// The task that failed once too often, and what there is to say.
    gave_up: Option<String>,
    waiting: Vec<oneshot::Sender<String>>,
    listeners: Vec<mpsc::UnboundedSender<Name>>,
}

impl Shared {
    /// Counts a failure; says after which time to start anew, if at all.
    fn record(&self, name: Name, failure: &str, attended: bool) -> Option<Duration> {
        let mut state = self.lock();
        if state.gave_up.is_some() {
            return None;
        }
        let decision = state.supervision.failed(Instant::now(), fastrand::f64());
        state.listeners.retain(|listener| listener.unbounded_send(name).is_ok());
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObservesThreads for Shared {
    fn thread_failed(&self, name: Name, failure: &str) {
        self.record(name, failure, true);
    }
}

/// Starts tasks anew that panicked, and gives up on the third panic within a minute.
#[derive(Debug, Clone)]
pub(crate) struct Supervisor {
    state: Arc<Shared>,
    /// Somebody asks whether it gave up. Else it never does.
    attended: bool,
}

impl Supervisor {
    /// For a server, which ends when this gives up.
    pub(crate) fn attended() -> Self {
        let state = Arc::default();
        threads::observe(&state);
        Self { state, attended: true }
    }

    /// For a client, which has nobody to tell.
    pub(crate) fn unattended() -> Self {
        Self { state: Arc::default(), attended: false }
    }

    /// Runs what `start` gives to its end. After a panic it is started anew, in a while.
    pub(crate) async fn keep<T, F: Future<Output = T>>(self, name: Name, mut start: impl FnMut() -> F) -> T {
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

    /// Deals with the panic of a task: says after a while whether to start it anew.
    pub(crate) async fn failed(&self, name: Name, message: &str) -> bool {
        let failure = format!("task {name} panicked: {message}");
        match self.state.record(name, &failure, self.attended) {
            Some(wait) => {
                say(&format!("{failure}; it starts anew in {wait:.1?}"));
                timer::sleep(wait).await;
                true
            }
            None => false,
        }
    }

    /// The names of the tasks that fail from now on.
    pub(crate) fn failures(&self) -> mpsc::UnboundedReceiver<Name> {
        let (tx, rx) = mpsc::unbounded();
        let mut state = self.state.lock();
        state.listeners.retain(|listener| !listener.is_closed());
        state.listeners.push(tx);
        drop(state);
        rx
    }

    /// Ends when this has given up, with what there is to say.
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

    /// One that does not hear of the threads that other tests have panic.
    fn alone() -> Supervisor {
        Supervisor { state: Arc::default(), attended: true }
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
            let waits: Vec<_> =
                (0..4).map(|_| supervisor.state.record(Name::Test, "on purpose", supervisor.attended)).collect();
            let attended = supervisor.attended;
            assert_eq!(waits.iter().map(Option::is_none).collect::<Vec<_>>(), [false, false, attended, attended]);
            let message = supervisor.gave_up().now_or_never();
            assert_eq!(message.is_some_and(|message| message.contains("on purpose; that is the third")), attended);
        }
    }
}
