//! Tasks of the library's own, and sockets: the only user of async-std.
//!
//! async-std's executor and reactor run on threads of their own, so what is spawned here goes on under any executor of the
//! caller's.

pub use async_std::{
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
};

use async_global_executor::GlobalExecutorConfig;
use async_std::task;
use futures::future::BoxFuture;
use std::{future::Future, time::Duration};

/// How many threads the executor has at least.
///
/// ZeroMQ takes the lock of a bucket of its map of connections now by blocking a thread, now by suspending a task that is
/// handed the lock while it sleeps. With a thread for each core, connections that come and go at one moment can block all
/// threads of a small machine on a lock whose owner waits for a thread.
const THREADS: usize = 8;

/// Sees to it that the executor has enough threads. Comes too late in a program that has used async-std before; there
/// `ASYNC_STD_THREAD_COUNT` does it.
pub fn prepare() {
    let threads = GlobalExecutorConfig::default().with_env_var("ASYNC_STD_THREAD_COUNT").with_min_threads(THREADS);
    let name = || "palm-io".to_owned();
    async_global_executor::init_with_config(threads.with_thread_name_fn(name));
}

/// Runs a future in the background until it ends.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    prepare();
    drop(task::spawn(future));
}

/// Runs a closure that may block on a thread of a pool (500 at most), and gives what it returns. Dropping the future
/// leaves the closure running.
pub fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> BoxFuture<'static, T> {
    Box::pin(task::spawn_blocking(work))
}

/// Waits on async-std's own timers; for everything but the timers' thread itself, see [`super::timer`].
pub async fn sleep(time: Duration) {
    task::sleep(time).await;
}
