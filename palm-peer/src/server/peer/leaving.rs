//! How a peer leaves: out of the mesh, then what it has begun, then a goodbye, each in bounded time.

use super::{GIVE_BACK_WITHIN, LEAVE_OVERHEAD, Peer};
use crate::{
    error::{Error, ErrorKind},
    ingress::{self, Ingress},
    io::{
        signal,
        systemd::{self, Notice},
        tasks::{self, Name},
        timer,
    },
    membership::Command,
    membership::watchdog::LivenessCheck,
    server::dispatch::Dispatcher,
};
use futures::{
    FutureExt as _,
    channel::{mpsc, oneshot},
    future::{Either, join, select},
    pin_mut,
};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// How long a server that left goes on answering `leaving` at least, so that clients which have not heard yet go elsewhere.
const LINGER: Duration = Duration::from_millis(100);

impl Peer {
    /// All that comes after serving, in bounded time whatever has failed. Gives why something was left undone.
    pub(super) async fn end(
        &self,
        ended: &Result<(), Error>,
        door: Ingress,
        serving: Dispatcher,
        receiver: ingress::Receiver,
        beats: mpsc::UnboundedReceiver<LivenessCheck>,
    ) -> Result<(), String> {
        let max = self.core.options.drain.max(LINGER) + LEAVE_OVERHEAD;
        let ending = self.end_in_order(ended, door, serving, receiver, beats);
        pin_mut!(ending);
        match select(ending, timer::last_resort(max)).await {
            Either::Left((ended, _)) => ended,
            Either::Right(_) => {
                let reason = format!("leaving took longer than {max:?}; what was not finished is lost");
                log::error!("{reason}");
                Err(reason)
            }
        }
    }

    async fn end_in_order(
        &self,
        ended: &Result<(), Error>,
        door: Ingress,
        mut serving: Dispatcher,
        mut receiver: ingress::Receiver,
        mut beats: mpsc::UnboundedReceiver<LivenessCheck>,
    ) -> Result<(), String> {
        let finished = {
            let finishing = self.finish(ended, &door, &mut serving, &mut receiver, &mut beats);
            let finishing = tasks::caught(Name::Drain, finishing);
            pin_mut!(finishing);
            match select(finishing, signal::hurry(self.signals)).await {
                Either::Left((finished, _)) => Some(finished),
                Either::Right(_) => None,
            }
        };
        if finished.is_none() {
            log::warn!("a second signal: leaving at once, {} requests are not finished", serving.pending());
        }
        if finished != Some(Ok(())) {
            self.give_back().await;
        }
        // In this order: the connections end with what answers them.
        drop((serving, receiver));
        door.close().await;
        finished.unwrap_or(Ok(())).map_err(|panic| format!("leaving panicked: {panic}"))
    }

    /// What is left to do once serving ends.
    async fn finish(
        &self,
        ended: &Result<(), Error>,
        door: &Ingress,
        serving: &mut Dispatcher,
        receiver: &mut ingress::Receiver,
        beats: &mut mpsc::UnboundedReceiver<LivenessCheck>,
    ) {
        match ended {
            Ok(()) => self.leave(door, serving, receiver, beats).await,
            Err(error) if error.kind() == ErrorKind::TaskFailed => self.leave(door, serving, receiver, beats).await,
            Err(error) if error.kind() == ErrorKind::Evicted => {
                self.core.leaving.store(true, Ordering::Release);
                self.drain(door, serving, receiver, beats).await;
            }
            Err(_) => {}
        }
    }

    /// Has the agent give the lease back, and with it all that is on it; does not wait for an etcd that is away.
    async fn give_back(&self) {
        let (tx, done) = oneshot::channel();
        if self.commands.unbounded_send(Command::Finish(tx)).is_ok() {
            let _ = timer::timeout(GIVE_BACK_WITHIN, done).await;
        }
    }

    async fn leave(
        &self,
        door: &Ingress,
        serving: &mut Dispatcher,
        receiver: &mut ingress::Receiver,
        beats: &mut mpsc::UnboundedReceiver<LivenessCheck>,
    ) {
        systemd::notify(Notice::Stopping);
        log::info!("leaving the mesh");
        self.command(Command::Leave, serving, receiver, beats).await;
        self.core.leaving.store(true, Ordering::Release);
        if serving.pending() > 0 {
            log::info!("finishing {} requests, for {:?} at most", serving.pending(), self.core.options.drain);
        }
        self.drain(door, serving, receiver, beats).await;
        self.command(Command::Finish, serving, receiver, beats).await;
        log::info!("left the mesh");
    }

    /// Finishes what was taken in, and sees its answers off.
    async fn drain(
        &self,
        door: &Ingress,
        serving: &mut Dispatcher,
        receiver: &mut ingress::Receiver,
        beats: &mut mpsc::UnboundedReceiver<LivenessCheck>,
    ) {
        let max = self.core.options.drain;
        let end = Instant::now() + max.max(LINGER);
        serving.drain(receiver, beats, LINGER, max).await;
        if serving.pending() > 0 {
            log::warn!("{} requests were not finished within {max:?}", serving.pending());
        }
        serving.send_goodbye();
        // What they sent before they heard it, be it that they were frozen, still finds somebody who passes it on.
        serving.drain(receiver, beats, Duration::ZERO, end.saturating_duration_since(Instant::now())).await;
        if serving.parting() > 0 {
            log::warn!("{} clients did not say goodbye within {max:?}", serving.parting());
        }
        let settled = join(door.settled(), self.core.relay.flushed());
        let settled = timer::timeout_at(end, settled).map(|settled| {
            if settled.is_err() {
                log::warn!("some clients or servers did not take what was sent to them within {max:?}");
            }
        });
        pin_mut!(settled);
        serving.run(receiver, beats, &mut settled.fuse()).await;
    }

    /// Tells the agent something, and goes on serving until it is done.
    async fn command(
        &self,
        command: impl FnOnce(oneshot::Sender<()>) -> Command,
        serving: &mut Dispatcher,
        receiver: &mut ingress::Receiver,
        beats: &mut mpsc::UnboundedReceiver<LivenessCheck>,
    ) {
        let (tx, done) = oneshot::channel();
        if self.commands.unbounded_send(command(tx)).is_ok() {
            // An agent that has ended has nothing left to do.
            serving.run(receiver, beats, &mut done.map(drop).fuse()).await;
        }
    }
}
