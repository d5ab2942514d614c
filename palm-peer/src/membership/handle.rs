//! The handle by which the serving side reaches the agent.

use super::status::StatusPublisher;
use futures::{
    FutureExt as _,
    channel::{mpsc, oneshot},
    future::Shared,
};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A command to the agent. Those with a sender are answered when they are done.
#[derive(Debug)]
pub(crate) enum Command {
    /// Take the server out of the mesh; also answered when etcd did not do it in time.
    Leave(oneshot::Sender<()>),
    /// All requests are answered: revoke the lease and end.
    Finish(oneshot::Sender<()>),
    /// The program has said whether the server is ready; not answered.
    Readiness,
}

/// Why the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitReason {
    /// It left.
    Left,
    /// An administrator removed it.
    Evicted,
    /// Its agent panicked too often.
    Failed,
}

/// A handle to the running agent. When its last handle is dropped, the agent takes the server out
/// of the mesh, and ends. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AgentHandle {
    status: Arc<StatusPublisher>,
    /// Whether the program wants the server to be called.
    ready: Arc<AtomicBool>,
    commands: mpsc::UnboundedSender<Command>,
    exit: Shared<oneshot::Receiver<ExitReason>>,
}

impl AgentHandle {
    /// Returns the peer's status.
    pub(crate) fn status(&self) -> &StatusPublisher {
        &self.status
    }

    /// Takes the server out of the mesh. Waits until that is done, or etcd did not do it in time.
    pub(crate) async fn leave(&self) {
        self.command(Command::Leave).await;
    }

    /// Revokes the lease, and ends the agent.
    pub(crate) async fn finish(&self) {
        self.command(Command::Finish).await;
    }

    /// Sets whether clients may call the server. The agent tells etcd as soon as it can.
    pub(crate) fn set_ready(&self, ready: bool) {
        if self.ready.swap(ready, Ordering::Relaxed) != ready {
            // An agent that has ended is not called any more.
            let _ = self.commands.unbounded_send(Command::Readiness);
        }
    }

    async fn command(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
        let (tx, done) = oneshot::channel();
        // An agent that has ended has nothing left to do.
        if self.commands.unbounded_send(command(tx)).is_ok() {
            let _ = done.await;
        }
    }

    /// Waits until the agent has ended. Returns the reason; `None` if it is unknown.
    pub(crate) fn exited(&self) -> impl Future<Output = Option<ExitReason>> + Send + use<> {
        self.exit.clone().map(Result::ok)
    }
}

/// A handle to an agent that publishes its status there; and for the agent, its commands, and where
/// to say how it ended.
pub(crate) fn new(
    status: Arc<StatusPublisher>,
    ready: Arc<AtomicBool>,
) -> (
    AgentHandle,
    mpsc::UnboundedReceiver<Command>,
    oneshot::Sender<ExitReason>,
) {
    let (commands, commands_rx) = mpsc::unbounded();
    let (exit_tx, exit) = oneshot::channel();
    (
        AgentHandle {
            status,
            ready,
            commands,
            exit: exit.shared(),
        },
        commands_rx,
        exit_tx,
    )
}
