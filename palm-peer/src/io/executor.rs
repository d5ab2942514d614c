//! The library's tasks and sockets: the only user of async-std.
//!
//! async-std's executor and reactor run on their own threads, so tasks spawned here run under any
//! executor of the caller.

pub(crate) use async_std::{
    net::{TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
};

use super::tasks::{self, Name, Supervisor};
use async_global_executor::GlobalExecutorConfig;
use async_std::task;
use futures::{FutureExt as _, future::BoxFuture};
use rustix::net::sockopt;
use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    os::fd::AsFd,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::Once,
    thread,
    time::Duration,
};

/// The default maximum number of threads of the executor.
const MAX_THREADS: usize = 4;

/// How long a TCP connection may be idle before keep-alive probes the other host.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(15);

/// The interval between keep-alive probes.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// After how many unanswered probes the connection is closed: 30 s after the last sign of the other
/// host. On Linux [`USER_TIMEOUT_MS`] replaces it.
const KEEP_ALIVE_PROBES: u32 = 3;

/// How long sent data may stay unacknowledged before the connection is closed, in ms. It also
/// bounds how long the peer may keep its receive window closed, so it must be longer than the 30 s
/// of stall that the listener allows.
#[cfg(target_os = "linux")]
const USER_TIMEOUT_MS: u32 = 45_000;

/// Sets the options of every TCP connection, outgoing or accepted: no Nagle delay; keep-alive,
/// which closes an idle connection to a vanished host; `TCP_USER_TIMEOUT`, which closes one whose
/// data is not acknowledged. Without these two, such a connection would stay open forever, or for
/// the 15 minutes of retransmissions. Fails when the connection is gone already.
pub(crate) fn tune(stream: &impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(stream, true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEP_ALIVE_PROBES)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MS)?;
    Ok(())
}

/// Limits the executor's threads to half of the cores, because the other half is for the caller.
/// Nothing here blocks its thread, and with more threads, tasks that depend on each other wake one
/// another across threads: eight threads on two cores cost a third of all calls. Has no effect in a
/// program that has used async-std before; `ASYNC_STD_THREAD_COUNT` takes precedence.
pub(crate) fn prepare() {
    static PREPARED: Once = Once::new();
    // The number of cores is read from a dozen files, so it is not read for each connection.
    PREPARED.call_once(|| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = GlobalExecutorConfig::default()
            .with_env_var("ASYNC_STD_THREAD_COUNT")
            .with_min_threads((cores / 2).clamp(1, MAX_THREADS));
        async_global_executor::init_with_config(
            threads.with_thread_name_fn(|| "palm-io".to_owned()),
        );
    });
}

/// Runs a future in the background until it ends. A panic is logged with the name.
pub(crate) fn spawn(name: Name, future: impl Future<Output = ()> + Send + 'static) {
    spawn_or(name, future, || {});
}

/// As [`spawn`]; calls `panicked` after a panic.
pub(crate) fn spawn_or(
    name: Name,
    future: impl Future<Output = ()> + Send + 'static,
    panicked: impl FnOnce() + Send + 'static,
) {
    prepare();
    let logged = tasks::logged(name, future);
    drop(task::spawn(async move {
        if logged.await.is_err() {
            panicked();
        }
    }));
}

/// As [`spawn`], for tasks that must always run: after a panic, it is restarted.
pub(crate) fn keep<F>(
    supervisor: &Supervisor,
    name: Name,
    start: impl FnMut() -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    prepare();
    drop(task::spawn(supervisor.clone().keep(name, start)));
}

/// Runs a future in the background, and blocks the calling thread until it ends; a
/// panic is propagated.
pub(crate) fn block_on<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    // async-std's own `block_on` would make this thread poll sockets as well, and then wake the
    // tasks concerned.
    futures::executor::block_on(started(future)).unwrap_or_else(|panic| resume_unwind(panic))
}

/// As [`block_on`], but waits only until `until` ends, and then leaves the future running.
#[cfg(feature = "cli")]
pub(crate) fn block_on_until<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
    until: impl Future + Unpin,
) -> Option<T> {
    use futures::future::{Either, select};
    match futures::executor::block_on(select(started(future), until)) {
        Either::Left((ended, _)) => Some(ended.unwrap_or_else(|panic| resume_unwind(panic))),
        Either::Right(_) => None,
    }
}

/// Runs a future in the background. Returns a handle that yields its value or its panic.
fn started<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> task::JoinHandle<thread::Result<T>> {
    prepare();
    task::spawn(AssertUnwindSafe(marked(future)).catch_unwind())
}

thread_local! {
    /// Whether this thread polls a future that was given to `block_on`.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether the caller is polled by [`block_on`].
pub(crate) fn is_inside_block_on() -> bool {
    INSIDE.get()
}

/// Makes [`is_inside_block_on`] true while the future is polled.
async fn marked<T>(future: impl Future<Output = T> + Send) -> T {
    /// Restores what was there before, also after a panic.
    struct Mark(bool);
    impl Drop for Mark {
        fn drop(&mut self) {
            INSIDE.set(self.0);
        }
    }
    let mut future = Box::pin(future);
    poll_fn(move |cx| {
        let _mark = Mark(INSIDE.replace(true));
        future.as_mut().poll(cx)
    })
    .await
}

/// Runs a closure that may block on a thread of a pool (at most 500), and returns its result.
/// Dropping the future leaves the closure running.
pub(crate) fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> BoxFuture<'static, T> {
    prepare();
    Box::pin(task::spawn_blocking(work))
}

/// Accepts a connection to a Unix socket with a send buffer of `buffer` bytes, or what the system
/// allows if that is less (twice `net.core.wmem_max`). Fails when no descriptor is left.
pub(crate) async fn accept_unix(listener: &UnixListener, buffer: usize) -> io::Result<UnixStream> {
    let (stream, _) = listener.accept().await?;
    sockopt::set_socket_send_buffer_size(&stream, buffer)?;
    Ok(stream)
}

/// Yields to other tasks.
pub(crate) async fn yield_now() {
    task::yield_now().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;

    #[test]
    fn a_future_knows_whether_it_is_inside_of_block_on() {
        assert!(!is_inside_block_on());
        assert!(super::block_on(async { is_inside_block_on() }));
        let other = task::spawn(async { is_inside_block_on() });
        assert!(!super::block_on(other), "a task of its own");
        assert!(
            !block_on(async { is_inside_block_on() }),
            "another executor"
        );
    }

    #[test]
    fn keep_alive_detects_a_vanished_host_within_a_minute() {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let stream = TcpStream::connect(listener.local_addr().expect("an address"))
                .await
                .expect("connects");
            tune(&stream).expect("options of a connection that stands");
            assert!(sockopt::tcp_nodelay(&stream).expect("read"));
            assert!(sockopt::socket_keepalive(&stream).expect("read"));
            let idle = sockopt::tcp_keepidle(&stream).expect("read");
            let interval = sockopt::tcp_keepintvl(&stream).expect("read");
            let probes = sockopt::tcp_keepcnt(&stream).expect("read");
            assert!(
                idle + interval * probes < Duration::from_secs(60),
                "{idle:?} + {interval:?} * {probes}"
            );
            #[cfg(target_os = "linux")]
            assert_eq!(
                sockopt::tcp_user_timeout(&stream).expect("read"),
                USER_TIMEOUT_MS
            );
        });
    }
}
