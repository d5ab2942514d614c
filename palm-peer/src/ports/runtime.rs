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
use futures::{FutureExt as _, future::BoxFuture};
use rustix::net::sockopt::set_socket_send_buffer_size;
use std::{
    future::Future,
    io,
    panic::{AssertUnwindSafe, resume_unwind},
    path::Path,
    thread,
};

/// How many threads the executor has at most, if nobody says otherwise.
const MOST_THREADS: usize = 4;

/// Sees to it that the executor has few threads: half of the cores, for the other half are the caller's. Nothing here
/// blocks its thread, and with each thread more, tasks that follow each other wake one another across threads: eight of
/// them on two cores cost a third of all calls. Comes too late in a program that has used async-std before;
/// `ASYNC_STD_THREAD_COUNT` has the last word.
pub fn prepare() {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = GlobalExecutorConfig::default()
        .with_env_var("ASYNC_STD_THREAD_COUNT")
        .with_min_threads((cores / 2).clamp(1, MOST_THREADS));
    async_global_executor::init_with_config(threads.with_thread_name_fn(|| "palm-io".to_owned()));
}

/// Runs a future in the background until it ends.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    prepare();
    drop(task::spawn(future));
}

/// Runs a future in the background, and blocks the calling thread until it ends; a panic goes on here.
pub fn block_on<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    prepare();
    let task = task::spawn(AssertUnwindSafe(future).catch_unwind());
    // async-std's own would have this thread wait for sockets as well, and then wake those that care.
    futures::executor::block_on(task).unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs a closure that may block on a thread of a pool (500 at most), and gives what it returns. Dropping the future
/// leaves the closure running.
pub fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> BoxFuture<'static, T> {
    Box::pin(task::spawn_blocking(work))
}

/// Connects to a Unix socket, which takes `buffer` bytes at once, or what the system allows if that is less
/// (`net.core.wmem_max`, twice).
///
/// # Errors
/// When there is no such socket, or no descriptor left.
pub async fn connect_unix(path: &Path, buffer: usize) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path).await?;
    set_socket_send_buffer_size(&stream, buffer)?;
    Ok(stream)
}

/// Lets others have their turn.
pub async fn yield_now() {
    task::yield_now().await;
}
