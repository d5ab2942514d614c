//! Forwarding of messages by the dispatch loop, and its errors.

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

/// How long a process may still be published after its end: the leader removes it within a second.
const PUBLISHED_FOR: Duration = Duration::from_secs(2);

/// Forwards messages to other servers.
pub(super) struct Forwarder {
    relay: Arc<Relay>,
    /// Messages being forwarded over links that are not open yet.
    passing: Passing,
    /// Messages that were lost on the way to other servers.
    losses: mpsc::UnboundedReceiver<Lost>,
}

impl Forwarder {
    /// Creates a forwarder over `relay`. At most `max` should wait for links.
    pub(super) fn new(relay: Arc<Relay>, max: Amount) -> Self {
        let losses = relay.unconfirmed.losses();
        Self {
            relay,
            passing: Passing::new(max),
            losses,
        }
    }

    /// Returns how many messages wait for links.
    pub(super) fn waiting(&self) -> usize {
        self.passing.len()
    }

    /// Fails with `busy` if no more messages to be forwarded should be accepted.
    pub(super) fn check_room(&self) -> Result<(), CallFailure> {
        if self.passing.has_room() {
            return Ok(());
        }
        let (count, bytes) = (self.passing.len(), self.passing.bytes());
        let text =
            format!("{count} messages of {bytes} bytes wait for connections to other servers");
        Err(CallFailure::new(CallErrorKind::Busy, text))
    }

    /// Forwards a message to its stage; from a server that is `leaving`, to another instance.
    pub(super) fn pass_on(&mut self, parcel: Parcel, leaving: bool) {
        let parcel = if leaving {
            Box::new(parcel)
        } else {
            match self.relay.pass_on(parcel) {
                Ok(()) => return,
                Err(unsent) => unsent,
            }
        };
        let (to, report, bytes) = (parcel.to.clone(), parcel.request.report, parcel.size());
        let relay = Arc::clone(&self.relay);
        let passing = async move { relay.find_and_pass_on(*parcel, leaving).await };
        self.passing
            .push(passing.map(move |passed| notice(to, report, passed)), bytes);
    }

    /// Waits until a waiting message is forwarded, or cannot be. Returns the notice for its
    /// client. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Notice> {
        loop {
            futures::select_biased! {
                notice = self.passing.next().fuse() => return notice,
                lost = self.losses.select_next_some() => self.resend(lost),
            }
        }
    }

    /// Forwards messages again that may have been lost with a connection. If the process has ended,
    /// reports to the client instead that the message may be lost, and counts the attempt: a poison
    /// message must not reach more processes this way. The client may not have noticed the loss
    /// itself: its own connection there may have ended before it sent the message, or hang, or its
    /// route has another instance.
    fn resend(&mut self, lost: Lost) {
        let count = lost.parcels.len();
        for parcel in lost.parcels {
            let (relay, swallowed, from) = (Arc::clone(&self.relay), lost.swallowed, lost.to);
            let (to, report, stage) = (
                parcel.to.clone(),
                parcel.request.report,
                parcel.request.stage,
            );
            let bytes = parcel.size();
            let passing = async move {
                if !swallowed {
                    timer::sleep(PUBLISHED_FOR).await;
                    if !relay.is_published(from) {
                        return notice(
                            to,
                            report,
                            Ok(Some(Rerouted {
                                stage,
                                from,
                                to: None,
                            })),
                        );
                    }
                }
                // The deadline has passed: the client has given up, and a server that closes every
                // connection must not get it forever.
                if Instant::now() >= parcel.deadline {
                    return None;
                }
                let unsent = relay.pass_on(parcel).err()?;
                notice(to, report, relay.find_and_pass_on(*unsent, false).await)
            };
            self.passing.push(passing, bytes);
        }
        log::debug!(
            "the connection to server {} ended: {count} messages may be lost with it",
            lost.to
        );
    }
}

/// Returns the notice for the client, if it wants reports.
fn notice(
    to: ReplyTo,
    report: bool,
    passed: Result<Option<Rerouted>, CallFailure>,
) -> Option<Notice> {
    let outcome = match passed {
        Ok(None) => return None,
        Ok(Some(_)) if !report => return None,
        Ok(Some(rerouted)) => Ok(rerouted),
        Err(failure) => Err(failure),
    };
    Some(Notice { to, outcome })
}
