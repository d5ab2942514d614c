//! The running functions, and what is known of their requests.

use super::{functions::FunctionResult, task::StartedTask};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use palm_proto::types::text::panic_message;
use std::{
    collections::HashMap,
    future::{Future, pending},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// The result of the function with this number.
type Ended = (u64, FunctionResult);

/// The running functions.
pub(super) struct ActiveCalls {
    functions: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// What is known of their requests, by number.
    tasks: HashMap<u64, StartedTask>,
    next: u64,
}

impl ActiveCalls {
    pub(super) fn new() -> Self {
        Self {
            functions: FuturesUnordered::new(),
            tasks: HashMap::new(),
            next: 0,
        }
    }

    /// Returns their number.
    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Adds one that has started.
    pub(super) fn push(
        &mut self,
        function: impl Future<Output = FunctionResult> + Send + 'static,
        task: StartedTask,
    ) {
        let number = self.next;
        self.next += 1;
        self.tasks.insert(number, task);
        self.functions
            .push(function.map(move |result| (number, result)).boxed());
    }

    /// Waits until one of them has ended; forever when there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> (StartedTask, FunctionResult) {
        loop {
            let Some((number, result)) = self.functions.next().await else {
                return pending().await;
            };
            if let Some(task) = self.tasks.remove(&number) {
                return (task, result);
            }
        }
    }

    /// Stops all of them.
    pub(super) fn stop(&mut self) -> Vec<StartedTask> {
        let functions = std::mem::take(&mut self.functions);
        // Functions are code of the program, and so is what drops what they hold.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(functions))) {
            log::error!("stopping a function panicked: {}", panic_message(panic));
        }
        self.tasks.drain().map(|(_, task)| task).collect()
    }
}
