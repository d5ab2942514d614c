//! How the dispatch loop passes messages on, and what it does when that fails.

use super::{
    parcel::{Notice, Parcel, ReplyTo},
    passing::Passing,
    relay::Relay,
    unconfirmed::Lost,
};
use crate::io::timer;
use futures::{FutureExt as _, StreamExt as _, channel::mpsc};
use palm_proto::{
    limits::fair_queue::Amount,
    types::message::{CallErrorKind, CallFailure, Rerouted},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How long after a process has ended it may still be published: the leader takes it out within a second.
const PUBLISHED_FOR: Duration = Duration::from_secs(2);

/// Passes messages on to other servers.
pub(super) struct Forwarder {
    relay: Arc<Relay>,
    /// Messages being passed on over links that are not open yet.
    passing: Passing,
    /// What was lost on its way to other servers.
    losses: mpsc::UnboundedReceiver<Lost>,
}

impl Forwarder {
    /// Passes messages on over `relay`. No more than `max` should wait for links.
    pub(super) fn new(relay: Arc<Relay>, max: Amount) -> Self {
        let losses = relay.ledgers.losses();
        Self { relay, passing: Passing::new(max), losses }
    }

    /// How many messages wait for links.
    pub(super) fn waiting(&self) -> usize {
        self.passing.len()
    }

    /// Fails with `busy` if no more messages should be taken in that are to be passed on.
    pub(super) fn check_room(&self) -> Result<(), CallFailure> {
        if self.passing.has_room() {
            return Ok(());
        }
        let (count, bytes) = (self.passing.len(), self.passing.bytes());
        let text = format!("{count} messages of {bytes} bytes wait for connections to other servers");
        Err(CallFailure::new(CallErrorKind::Busy, text))
    }

    /// Passes a message on to its stage; from a server that is `leaving`, to another instance.
    pub(super) fn pass_on(&mut self, parcel: Parcel, leaving: bool) {
        let (to, report, bytes) = (parcel.to.clone(), parcel.request.report, parcel.size());
        if let Some(passing) = self.relay.pass_on(parcel, leaving) {
            self.passing.push(passing.map(move |passed| notice(to, report, passed)), bytes);
        }
    }

    /// Waits until a message that had to wait is passed on, or cannot be. Returns what the client is to be told. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Notice> {
        loop {
            futures::select_biased! {
                notice = self.passing.next().fuse() => return notice,
                lost = self.losses.select_next_some() => self.resend(lost),
            }
        }
    }

    /// Passes on again what may have been lost with a connection. Where the process has ended, the client is told that the message may be
    /// lost instead, and counts the attempt: one message that ends each process that runs it must not come to more of
    /// them by this. The client may not have noticed it itself: its own connection there may have ended before it sent the
    /// message, or stand still, or another instance is in its route.
    fn resend(&mut self, lost: Lost) {
        let count = lost.parcels.len();
        for parcel in lost.parcels {
            let (relay, swallowed, from) = (Arc::clone(&self.relay), lost.swallowed, lost.to);
            let (to, report, stage) = (parcel.to.clone(), parcel.request.report, parcel.request.stage);
            let bytes = parcel.size();
            let passing = async move {
                if !swallowed {
                    timer::sleep(PUBLISHED_FOR).await;
                    if !relay.is_published(from) {
                        return notice(to, report, Ok(Some(Rerouted { stage, from, to: None })));
                    }
                }
                // The client has given it up; and a server that ends each connection must not be sent it for ever.
                if Instant::now() >= parcel.deadline {
                    return None;
                }
                let passing = relay.pass_on(parcel, false)?;
                notice(to, report, passing.await)
            };
            self.passing.push(passing, bytes);
        }
        log::debug!("the connection to server {} ended: {count} messages may be lost with it", lost.to);
    }
}

/// What the client is told, if it wants to hear it.
fn notice(to: ReplyTo, report: bool, passed: Result<Option<Rerouted>, CallFailure>) -> Option<Notice> {
    let outcome = match passed {
        Ok(None) => return None,
        Ok(Some(_)) if !report => return None,
        Ok(Some(rerouted)) => Ok(rerouted),
        Err(failure) => Err(failure),
    };
    Some(Notice { to, outcome })
}
