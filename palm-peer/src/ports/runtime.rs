//! Tasks of the library's own, and plain TCP: the only user of async-std.
//!
//! async-std's executor and reactor run on threads of their own, so what is spawned here goes on under any executor of the
//! caller's.

use async_std::{net::TcpStream, task};
use futures::future::BoxFuture;
use std::{future::Future, io, time::Duration};

/// Runs a future in the background until it ends.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) {
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

/// Whether a TCP connection to `host:port` can be opened. It is closed again at once.
///
/// # Errors
/// As connecting: `ConnectionRefused` says that no process listens there.
pub async fn try_connect(address: &str) -> io::Result<()> {
    TcpStream::connect(address).await.map(drop)
}
