//! The thread on which all communication with etcd runs.

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

/// How many host names of etcd are resolved at a time, each on a thread. etcd's client lets the
/// runtime do so, and each retry begins another lookup beside one that hangs.
const MAX_LOOKUPS: usize = 32;

/// Keeps the thread running: it ends when this is dropped.
///
/// The thread is not joined: the last handle may be dropped on the thread itself.
pub(super) struct Thread {
    handle: Handle,
    /// Never sent to: dropping it is the signal.
    _stop: oneshot::Sender<()>,
}

impl Thread {
    /// Starts a thread of this name.
    pub(super) fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MAX_LOOKUPS)
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, mut stopped) = oneshot::channel::<()>();
        let mut runtime = Some(runtime);
        threads::start_thread(Name::EtcdThread, name, move || {
            // The receiver only ever learns that the sender is gone. After a panic the
            // same tasks continue.
            if let Some(runtime) = &runtime {
                let _ = runtime.block_on(rigged(Name::EtcdThread, &mut stopped));
            }
            // A lookup that hangs in the C library must not delay the end.
            if let Some(runtime) = runtime.take() {
                runtime.shutdown_background();
            }
            Ok(())
        })?;
        Ok(Self {
            handle,
            _stop: stop,
        })
    }

    /// Returns the runtime of the thread.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs a future on this thread. A panic is logged with the name.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        name: Name,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        Task(self.handle.spawn(tasks::logged(name, future)))
    }

    /// Returns a future that ends after this time, on any executor.
    pub(super) fn timer(&self, after: Duration) -> impl Future<Output = ()> + Send + use<> {
        // Only creating the timer needs tokio's context; this thread wakes it.
        let _context = self.handle.enter();
        tokio::time::sleep(after)
    }

    /// Runs the future that `start` returns on this thread, and restarts it after a panic.
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

/// Runs a detached future on the runtime of etcd's thread; a panic is logged with the name.
pub(super) fn spawn_on(
    handle: &Handle,
    name: Name,
    future: impl Future<Output = ()> + Send + 'static,
) {
    drop(handle.spawn(tasks::logged(name, future)));
}

/// The handle of a future on etcd's thread, which can be awaited on any executor. Dropping it does
/// not end the future.
#[must_use = "dropping a task lets it run on unobserved"]
pub(crate) struct Task<T>(JoinHandle<Result<T, String>>);

impl<T: Send + 'static> Task<T> {
    /// Aborts the future at its next await point. Awaiting the task afterwards returns
    /// [`TaskLost::Aborted`], or the result if it had finished already.
    pub(crate) fn abort(&self) {
        self.0.abort();
    }

    /// Returns whether it has ended in any way.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskLost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|result| match result {
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
    /// It panicked, with this message.
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
    /// Returns whether it has ended in any way.
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
