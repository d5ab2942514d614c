//! What serves for a peer: its ingress, its dispatch loop and its agent, from the first request until the server has left.

use crate::{
    error::{Error, ErrorKind},
    ingress::Ingress,
    io::{
        etcd::AbortOnDrop,
        signal,
        systemd::{self, Notice},
        tasks::{self, Name},
        timer,
    },
    membership::{AgentHandle, ExitReason},
    server::{dispatch::Dispatcher, state::ServerState},
};
use futures::{
    FutureExt as _,
    future::{Either, join, select},
};
use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// How long a server that is stopped while it joins, or told to hurry, waits for etcd to take back its lease.
pub(super) const GIVE_BACK_WITHIN: Duration = Duration::from_secs(1);

/// How much longer than its drain leaving may take. Every wait in it has a bound of its own; this one holds even when no timer
/// fires any more.
pub(super) const LEAVE_OVERHEAD: Duration = Duration::from_secs(10);

/// How long a server that left goes on answering `leaving` at least, so that clients which have not heard yet go elsewhere.
const LINGER: Duration = Duration::from_millis(100);

/// What serving needs, once.
pub(super) struct Engine {
    pub(super) state: Arc<ServerState>,
    pub(super) ingress: Ingress,
    pub(super) dispatcher: Dispatcher,
    pub(super) agent: AgentHandle,
    /// Warns when the certificate expires.
    pub(super) _certificate_expiry: Option<AbortOnDrop<Infallible>>,
    /// How many signals the process had received before the peer joined.
    pub(super) signals: u64,
}

impl Engine {
    /// Serves until `shutdown` ends, or something ends it; then leaves.
    pub(super) async fn serve(mut self, shutdown: impl Future) -> Result<(), Error> {
        let state = Arc::clone(&self.state);
        let ended = {
            let stop = pin!(stop(&state, &self.agent, shutdown));
            let running = tasks::caught(Name::Serving, self.dispatcher.run(&mut stop.fuse())).await;
            running.unwrap_or_else(|panic| Err(failed(&state, &format!("the serving loop panicked: {panic}"))))
        };
        // Boxed: callers hold this future, which need not be larger than the serving one.
        let left = Box::pin(self.end(&ended)).await;
        ended.and(left.map_err(|reason| failed(&state, &reason)))
    }

    /// All that comes after serving, in bounded time whatever has failed. Returns why something was left undone.
    async fn end(self, ended: &Result<(), Error>) -> Result<(), String> {
        let max = self.state.config.drain.max(LINGER) + LEAVE_OVERHEAD;
        let ending = pin!(self.end_in_order(ended));
        match select(ending, timer::last_resort(max)).await {
            Either::Left((ended, _)) => ended,
            Either::Right(_) => {
                let reason = format!("leaving took longer than {max:?}; what was not finished is lost");
                log::error!("{reason}");
                Err(reason)
            }
        }
    }

    async fn end_in_order(mut self, ended: &Result<(), Error>) -> Result<(), String> {
        let hurry = signal::hurry(self.signals);
        let finished = match select(pin!(tasks::caught(Name::Drain, self.finish(ended))), hurry).await {
            Either::Left((finished, _)) => Some(finished),
            Either::Right(_) => None,
        };
        if finished.is_none() {
            log::warn!("a second signal: leaving at once, {} requests are not finished", self.dispatcher.pending());
        }
        if finished != Some(Ok(())) {
            // Has the agent give the lease back, and with it all that is on it; does not wait for an etcd that is away.
            let _ = timer::timeout(GIVE_BACK_WITHIN, self.agent.finish()).await;
        }
        // In this order: the connections end with what answers them.
        drop(self.dispatcher);
        self.ingress.close().await;
        finished.unwrap_or(Ok(())).map_err(|panic| format!("leaving panicked: {panic}"))
    }

    /// What is left to do once serving ends.
    async fn finish(&mut self, ended: &Result<(), Error>) {
        match ended {
            Ok(()) => self.leave().await,
            Err(error) if error.kind() == ErrorKind::TaskFailed => self.leave().await,
            Err(error) if error.kind() == ErrorKind::Evicted => {
                self.state.leaving.store(true, Ordering::Release);
                self.drain().await;
            }
            Err(_) => {}
        }
    }

    async fn leave(&mut self) {
        systemd::notify(Notice::Stopping);
        log::info!("leaving the mesh");
        self.dispatcher.run(&mut pin!(self.agent.leave()).fuse()).await;
        self.state.leaving.store(true, Ordering::Release);
        if self.dispatcher.pending() > 0 {
            log::info!("finishing {} requests, for {:?} at most", self.dispatcher.pending(), self.state.config.drain);
        }
        self.drain().await;
        self.dispatcher.run(&mut pin!(self.agent.finish()).fuse()).await;
        log::info!("left the mesh");
    }

    /// Finishes what was taken in, and sees its answers off.
    async fn drain(&mut self) {
        let max = self.state.config.drain;
        let end = Instant::now() + max.max(LINGER);
        self.dispatcher.drain(LINGER, max).await;
        if self.dispatcher.pending() > 0 {
            log::warn!("{} requests were not finished within {max:?}", self.dispatcher.pending());
        }
        self.dispatcher.send_goodbye();
        // What they sent before they heard it, be it that they were frozen, still finds somebody who passes it on.
        self.dispatcher.drain(Duration::ZERO, end.saturating_duration_since(Instant::now())).await;
        if self.dispatcher.awaiting_ack() > 0 {
            log::warn!("{} clients did not say goodbye within {max:?}", self.dispatcher.awaiting_ack());
        }
        let settled = join(self.ingress.settled(), self.state.relay.flushed());
        let settled = timer::timeout_at(end, settled);
        if self.dispatcher.run(&mut pin!(settled).fuse()).await.is_err() {
            log::warn!("some clients or servers did not take what was sent to them within {max:?}");
        }
    }
}

/// Ends when serving is to end, with the reason.
async fn stop(state: &ServerState, agent: &AgentHandle, shutdown: impl Future) -> Result<(), Error> {
    let mut shutdown = pin!(shutdown.fuse());
    futures::select_biased! {
        // When it gives up, the agent ends as well: the reason comes first.
        reason = state.supervisor.gave_up().fuse() => Err(failed(state, &reason)),
        exit = agent.exited().fuse() => match exit {
            Some(ExitReason::Evicted) => {
                let message = format!("server {} was removed from the mesh by an administrator", state.uuid);
                Err(Error::new(ErrorKind::Evicted, message))
            }
            Some(ExitReason::Left | ExitReason::Failed) | None => Err(failed(state, "its agent ended")),
        },
        _ = shutdown => Ok(()),
    }
}

pub(super) fn failed(state: &ServerState, reason: &str) -> Error {
    let message = format!("server {} cannot go on and must be started anew: {reason}", state.uuid);
    Error::new(ErrorKind::TaskFailed, message)
}
