//! The serving side of a peer: its ingress, its dispatch loop and its agent, from the first request
//! until the server has left.

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
    server::{dispatch::Dispatcher, metrics::listener::MetricsListener, state::ServerState},
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

/// How long a server that is stopped while it joins, or whose drain is ended early, waits for etcd
/// to revoke its lease.
pub(super) const GIVE_BACK_WITHIN: Duration = Duration::from_secs(1);

/// How much longer than its drain leaving may take. Every wait in it has its own bound; this one
/// holds even if the timers have failed.
pub(super) const LEAVE_OVERHEAD: Duration = Duration::from_secs(10);

/// How long a server that left answers `leaving` at least, so that clients that do not know
/// yet go elsewhere.
const LINGER: Duration = Duration::from_millis(100);

/// The parts that serving needs.
pub(super) struct Engine {
    pub(super) state: Arc<ServerState>,
    pub(super) ingress: Ingress,
    pub(super) dispatcher: Dispatcher,
    pub(super) agent: AgentHandle,
    /// Serves the metrics over HTTP.
    pub(super) _metrics: Option<MetricsListener>,
    /// Warns when the certificate is about to expire.
    pub(super) _certificate_expiry: Option<AbortOnDrop<Infallible>>,
    /// The number of signals received before the peer joined.
    pub(super) signals: u64,
}

impl Engine {
    /// Serves until `shutdown` ends, or the agent ends; then leaves.
    pub(super) async fn serve(mut self, shutdown: impl Future) -> Result<(), Error> {
        let state = Arc::clone(&self.state);
        let ended = {
            let stop = pin!(stop(&state, &self.agent, shutdown));
            let running = tasks::caught(Name::Serving, self.dispatcher.run(&mut stop.fuse())).await;
            running.unwrap_or_else(|panic| {
                Err(failed(
                    &state,
                    &format!("the serving loop panicked: {panic}"),
                ))
            })
        };
        // Boxed: callers hold this future, which need not be larger than the serving one.
        let left = Box::pin(self.end(&ended)).await;
        ended.and(left.map_err(|reason| failed(&state, &reason)))
    }

    /// Leaves, in bounded time whatever has failed. Returns an error if something
    /// could not be done.
    async fn end(self, ended: &Result<(), Error>) -> Result<(), String> {
        let max = self.state.config.drain.max(LINGER) + LEAVE_OVERHEAD;
        let ending = pin!(self.end_in_order(ended));
        match select(ending, timer::last_resort(max)).await {
            Either::Left((ended, _)) => ended,
            Either::Right(_) => {
                let reason =
                    format!("leaving took longer than {max:?}; unfinished requests are lost");
                log::error!("{reason}");
                Err(reason)
            }
        }
    }

    async fn end_in_order(mut self, ended: &Result<(), Error>) -> Result<(), String> {
        let hurry = signal::hurry(self.signals);
        let finished =
            match select(pin!(tasks::caught(Name::Drain, self.finish(ended))), hurry).await {
                Either::Left((finished, _)) => Some(finished),
                Either::Right(_) => None,
            };
        if finished.is_none() {
            log::warn!(
                "a second signal: leaving at once, {} requests are not finished",
                self.dispatcher.pending()
            );
        }
        if finished != Some(Ok(())) {
            // Makes the agent revoke the lease with all its keys; does not wait for an etcd
            // that is unavailable.
            let _ = timer::timeout(GIVE_BACK_WITHIN, self.agent.finish()).await;
        }
        // In this order: the connections end with the loop that answers them.
        drop(self.dispatcher);
        self.ingress.close().await;
        finished
            .unwrap_or(Ok(()))
            .map_err(|panic| format!("leaving panicked: {panic}"))
    }

    /// Finishes serving, depending on why it ended.
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
        self.dispatcher
            .run(&mut pin!(self.agent.leave()).fuse())
            .await;
        self.state.leaving.store(true, Ordering::Release);
        if self.dispatcher.pending() > 0 {
            log::info!(
                "finishing {} requests, for {:?} at most",
                self.dispatcher.pending(),
                self.state.config.drain
            );
        }
        self.drain().await;
        self.dispatcher
            .run(&mut pin!(self.agent.finish()).fuse())
            .await;
        log::info!("left the mesh");
    }

    /// Drains: finishes accepted requests, and waits until their answers are sent.
    async fn drain(&mut self) {
        let max = self.state.config.drain;
        let end = Instant::now() + max.max(LINGER);
        self.dispatcher.drain(LINGER, max).await;
        let forwarding = self.dispatcher.pending();
        let pending = self.dispatcher.give_up();
        if forwarding > 0 {
            log::warn!(
                "{forwarding} requests were not finished within {max:?}; the functions of {pending} are stopped"
            );
        }
        self.dispatcher.send_goodbye();
        // Messages that clients sent before they got the goodbye, even frozen clients, are
        // still forwarded.
        self.dispatcher
            .drain(
                Duration::ZERO,
                end.saturating_duration_since(Instant::now()),
            )
            .await;
        if self.dispatcher.awaiting_ack() > 0 {
            log::warn!(
                "{} clients did not acknowledge the goodbye within {max:?}",
                self.dispatcher.awaiting_ack()
            );
        }
        let settled = join(self.ingress.settled(), self.state.relay.flushed());
        let settled = timer::timeout_at(end, settled);
        if self
            .dispatcher
            .run(&mut pin!(settled).fuse())
            .await
            .is_err()
        {
            log::warn!("some clients or servers did not read what was sent to them within {max:?}");
        }
    }
}

/// Ends when serving must end, with the reason.
async fn stop(
    state: &ServerState,
    agent: &AgentHandle,
    shutdown: impl Future,
) -> Result<(), Error> {
    let mut shutdown = pin!(shutdown.fuse());
    futures::select_biased! {
        // When the supervisor gives up, the agent ends as well: its reason takes precedence.
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
    let message = format!(
        "server {} cannot continue and must be restarted: {reason}",
        state.uuid
    );
    Error::new(ErrorKind::TaskFailed, message)
}
