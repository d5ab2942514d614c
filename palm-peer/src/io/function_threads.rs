//! The threads of functions that wait, for servers inside of `block_on`: the only user of
//! async-executor.
//!
//! They are apart from the executor of the library's tasks, so a function that computes for long
//! delays other functions, but neither connections nor the dispatch loop.

use super::threads::{self, Name};
use async_executor::Executor;
use futures::future::{BoxFuture, pending};
use std::{
    pin::pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

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

/// Wakes a thread. A function may park its thread as well, and take the token of an `unpark`.
struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Runs a future to its end. That of `futures` panics when a function inside of it, such as an
/// exporter of spans, uses it as well.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let unpark = Arc::new(Unpark {
        thread: thread::current(),
        woken: AtomicBool::new(false),
    });
    let waker = Waker::from(Arc::clone(&unpark));
    let mut future = pin!(future);
    loop {
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        if let Poll::Ready(result) = polled {
            return result;
        }
        while !unpark.woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

/// Returns whether there are threads: the system may refuse them.
pub(crate) fn is_available() -> bool {
    *THREADS > 0
}

/// Runs a future on these threads. It must not panic.
pub(crate) fn spawn(future: BoxFuture<'static, ()>) {
    EXECUTOR.spawn(future).detach();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc, time::Duration};

    /// As the simple exporter of OpenTelemetry does when a span ends.
    #[test]
    fn a_function_may_block_its_thread_with_a_future() {
        assert!(is_available());
        let (tx, rx) = mpsc::channel();
        for number in 0..100 {
            let tx = tx.clone();
            spawn(Box::pin(async move {
                let (sent, later) = futures::channel::oneshot::channel();
                spawn(Box::pin(async move {
                    let _ = sent.send(number);
                }));
                if number == 0 {
                    // Ready at once: it would wait for its own thread otherwise.
                    drop(later);
                    let _ = tx.send(futures::executor::block_on(async { number }));
                } else {
                    let _ = tx.send(later.await.unwrap_or_default());
                }
            }));
        }
        for _ in 0..100 {
            rx.recv_timeout(Duration::from_secs(20)).expect("it ends");
        }
    }
}
