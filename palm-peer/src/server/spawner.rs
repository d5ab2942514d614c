//! Where functions run that have to wait: with the dispatch loop, or on other threads.

use super::message::Outcome;
use crate::io::{executor, function_threads};
use futures::{
    FutureExt as _,
    channel::oneshot,
    future::{AbortHandle, BoxFuture, abortable},
};
use palm_proto::types::{
    message::{CallErrorKind, CallFailure},
    text::panic_message,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    thread,
};

/// Spawns a future on an executor of the program.
pub(super) type Hook = Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

/// Decides where functions run that have to wait.
#[derive(Clone, Default)]
pub(crate) struct Spawner(Option<Hook>);

impl Spawner {
    /// Creates one that spawns them by this hook.
    pub(super) fn new(hook: Hook) -> Self {
        Self(Some(hook))
    }

    /// Hands a function that waits to where it runs: to the hook if there is one, else to the
    /// threads for functions if the caller is polled inside of `block_on`, else nowhere.
    pub(super) fn place(&self, running: BoxFuture<'static, Outcome>) -> Running {
        match &self.0 {
            Some(hook) => Running::Elsewhere(Spawned::new(running, &**hook)),
            None if executor::is_inside_block_on() && function_threads::is_available() => {
                Running::Elsewhere(Spawned::new(running, &function_threads::spawn))
            }
            None => Running::Here(running),
        }
    }
}

/// A function that waits.
pub(super) enum Running {
    /// It is polled with the dispatch loop.
    Here(BoxFuture<'static, Outcome>),
    /// It runs on another executor.
    Elsewhere(Spawned),
}

impl Running {
    /// Waits for its outcome, and panics as it does. Fails if it is dropped before it ends. Dropping
    /// this stops the function.
    pub(super) async fn outcome(self) -> Result<Outcome, CallFailure> {
        match self {
            Self::Here(running) => Ok(running.await),
            Self::Elsewhere(spawned) => spawned.outcome().await,
        }
    }
}

/// A function on another executor. Dropping this stops it as soon as it waits again.
pub(super) struct Spawned {
    outcome: oneshot::Receiver<thread::Result<Outcome>>,
    stop: AbortHandle,
    /// The hook's panic.
    refused: Option<String>,
}

impl Spawned {
    fn new(running: BoxFuture<'static, Outcome>, spawn: &dyn Fn(BoxFuture<'static, ()>)) -> Self {
        let (running, stop) = abortable(running);
        let (tx, outcome) = oneshot::channel();
        let future = async move {
            // Dropping a function that was stopped may panic as well, and happens inside.
            let running = AssertUnwindSafe(async move { running.await.ok() });
            match running.catch_unwind().await {
                Ok(Some(outcome)) => drop(tx.send(Ok(outcome))),
                Err(panic) => drop(tx.send(Err(panic))),
                // It was stopped.
                Ok(None) => {}
            }
        };
        // The hook is code of the program. An executor that takes nothing more drops the future.
        let spawned = catch_unwind(AssertUnwindSafe(|| spawn(future.boxed())));
        Self {
            outcome,
            stop,
            refused: spawned.err().map(panic_message),
        }
    }

    async fn outcome(mut self) -> Result<Outcome, CallFailure> {
        match (&mut self.outcome).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(panic)) => resume_unwind(panic),
            Err(oneshot::Canceled) => Err(self.lost()),
        }
    }

    fn lost(&self) -> CallFailure {
        let text = match &self.refused {
            Some(panic) => format!("the function cannot go on: its spawn_with panicked: {panic}"),
            None => "the executor of spawn_with dropped the function before it ended".to_owned(),
        };
        CallFailure::new(CallErrorKind::Unreachable, text)
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.stop.abort();
    }
}

#[cfg(test)]
mod tests;
