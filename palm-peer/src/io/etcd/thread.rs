//! The thread on which everything that talks to etcd lives.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::JoinHandle,
};

use crate::io::{
    rigged::rigged,
    tasks::{self, Name, Supervisor},
    threads,
};

/// How many names of etcd's hosts are looked up at a time, each on a thread. etcd's client has the runtime do so, and each new
/// try begins another lookup beside one that hangs.
const MAX_LOOKUPS: usize = 32;

/// Keeps the thread running: it ends when this is dropped.
///
/// Nobody joins the thread, for the last handle may be dropped on the thread itself.
pub(super) struct Thread {
    handle: Handle,
    /// Never sent to: dropping it is the signal.
    _stop: oneshot::Sender<()>,
}

impl Thread {
    /// Starts a thread of this name.
    pub(super) fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(MAX_LOOKUPS).build()?;
        let handle = runtime.handle().clone();
        let (stop, mut stopped) = oneshot::channel::<()>();
        let mut runtime = Some(runtime);
        threads::start_thread(Name::EtcdThread, name, move || {
            // The only news there can be is that the sender is gone. After a panic the same tasks go on.
            if let Some(runtime) = &runtime {
                let _ = runtime.block_on(rigged(Name::EtcdThread, &mut stopped));
            }
            // A look-up of a name that hangs in the C library must not hold up the end.
            if let Some(runtime) = runtime.take() {
                runtime.shutdown_background();
            }
            Ok(())
        })?;
        Ok(Self { handle, _stop: stop })
    }

    /// The runtime of the thread.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs a future here. A panic is logged with the name.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        name: Name,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        Task(self.handle.spawn(tasks::logged(name, future)))
    }

    /// A future that ends after a while, on any executor.
    pub(super) fn timer(&self, after: Duration) -> impl Future<Output = ()> + Send + use<> {
        // Only making the timer needs tokio's context; what wakes it is this thread.
        let _context = self.handle.enter();
        tokio::time::sleep(after)
    }

    /// Runs what `start` gives here, and starts it anew after a panic.
    pub(super) fn keep<T, F>(
        &self,
        supervisor: &Supervisor,
        name: Name,
        start: impl FnMut() -> F + Send + 'static,
    ) -> AbortOnDrop<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let kept = supervisor.clone().keep(name, start);
        AbortOnDrop(Task(self.handle.spawn(async move { Ok(kept.await) })))
    }
}

/// Runs a future on the runtime of etcd's thread. Nobody waits for it; a panic is logged with the name.
pub(super) fn spawn_on(handle: &Handle, name: Name, future: impl Future<Output = ()> + Send + 'static) {
    drop(handle.spawn(tasks::logged(name, future)));
}

/// A future that runs on etcd's thread, and a way to wait for it on any executor. Dropping this lets it run on.
#[must_use = "dropping a task lets it run on unobserved"]
pub(crate) struct Task<T>(JoinHandle<Result<T, String>>);

impl<T: Send + 'static> Task<T> {
    /// Stops the future where it waits next. Awaiting the task afterwards gives [`TaskLost::Aborted`], or the result if
    /// it was finished already.
    pub(crate) fn abort(&self) {
        self.0.abort();
    }

    /// Whether it has come to an end of any kind.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskLost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| match result {
            Ok(result) => result.map_err(TaskLost::Panicked),
            Err(_) => Err(TaskLost::Aborted),
        })
    }
}

/// Why a task has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum TaskLost {
    /// It was aborted, or its thread ended.
    Aborted,
    /// It panicked, with these words.
    Panicked(String),
}

impl fmt::Display for TaskLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aborted => f.write_str("the task was aborted"),
            Self::Panicked(message) => write!(f, "the task panicked: {message}"),
        }
    }
}

impl std::error::Error for TaskLost {}

/// A task that is aborted when this handle is dropped. Awaiting the handle waits for the task.
#[must_use = "dropping it ends the task"]
pub(crate) struct AbortOnDrop<T: Send + 'static>(pub(super) Task<T>);

impl<T: Send + 'static> AbortOnDrop<T> {
    /// Whether it has come to an end of any kind.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T: Send + 'static> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T: Send + 'static> Future for AbortOnDrop<T> {
    type Output = Result<T, TaskLost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}
