//! The threads of functions that wait, for servers inside of `block_on`: the only user of
//! async-executor.
//!
//! They are apart from the executor of the library's tasks, so a function that computes for long
//! delays other functions, but neither connections nor the dispatch loop.

use super::threads::{self, Name};
use async_executor::Executor;
use futures::{
    executor::block_on,
    future::{BoxFuture, pending},
};
use std::{sync::LazyLock, thread};

static EXECUTOR: Executor<'static> = Executor::new();

/// How many threads run. They start when they are first needed.
static THREADS: LazyLock<usize> = LazyLock::new(start);

/// Starts a thread for each core, but at least two: one function that computes must not stop all
/// others.
fn start() -> usize {
    let wanted = thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let started = (0..wanted)
        .map(|_| threads::start_thread(Name::FunctionThread, "palm-function", run))
        .take_while(Result::is_ok)
        .count();
    if started < wanted {
        log::warn!("{started} instead of {wanted} threads run functions: the system refused more");
    }
    started
}

fn run() -> Result<(), String> {
    threads::panic_if_rigged(Name::FunctionThread);
    block_on(EXECUTOR.run(pending()))
}

/// Returns whether there are threads: the system may refuse them.
pub(crate) fn is_available() -> bool {
    *THREADS > 0
}

/// Runs a future on these threads. It must not panic.
pub(crate) fn spawn(future: BoxFuture<'static, ()>) {
    EXECUTOR.spawn(future).detach();
}
