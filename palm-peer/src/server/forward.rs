//! How the serving loop passes messages on, and what it does when that fails.

use super::{
    dispatch::Dispatcher,
    parcel::{Notice, Parcel, ReplyTo},
    unconfirmed::Lost,
};
use crate::io::timer;
use bytes::Bytes;
use futures::FutureExt as _;
use palm_proto::types::message::{Answer, Failure, Request, Rerouted};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How long after a process has ended it may still be published: the leader takes it out within a second.
const PUBLISHED_FOR: Duration = Duration::from_secs(2);

impl Dispatcher {
    pub(super) fn pass_on(&mut self, to: &ReplyTo, request: Request, payload: Bytes, deadline: Instant, leaving: bool) {
        self.pass_on_parcel(Parcel { to: to.clone(), request, payload, deadline }, leaving);
    }

    fn pass_on_parcel(&mut self, parcel: Parcel, leaving: bool) {
        let (to, report, bytes) = (parcel.to.clone(), parcel.request.report, parcel.size());
        if let Some(passing) = self.core.relay.pass_on(parcel, leaving) {
            self.onward.push(passing.map(move |passed| notice(to, report, passed)), bytes);
        }
    }

    pub(super) fn give_notice(&mut self, notice: Option<Notice>) {
        let Some(Notice { to, outcome }) = notice else { return };
        match outcome {
            Ok(rerouted) => {
                let mut header = Answer::greeting(self.core.uuid);
                (header.job, header.idx, header.stage) = (to.job, to.idx, Some(to.stage));
                header.rerouted = Some(rerouted);
                self.send(&to, &header, Bytes::new());
            }
            Err(failure) => self.answer(&to, Err(failure)),
        }
    }

    /// Passes on again what may have been lost with a connection. Where the process has ended, the client is told that the message may be
    /// lost instead, and counts the attempt: one message that ends each process that runs it must not come to more of
    /// them by this. The client may not have noticed it itself: its own connection there may have ended before it sent the
    /// message, or stand still, or another instance is in its route.
    pub(super) fn lost(&mut self, lost: Lost) {
        let count = lost.parcels.len();
        for parcel in lost.parcels {
            let (relay, swallowed, from) = (Arc::clone(&self.core.relay), lost.swallowed, lost.to);
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
            self.onward.push(passing, bytes);
        }
        log::debug!("the connection to server {} ended: {count} messages may be lost with it", lost.to);
    }
}

/// What the client is told, if it wants to hear it.
fn notice(to: ReplyTo, report: bool, passed: Result<Option<Rerouted>, Failure>) -> Option<Notice> {
    let outcome = match passed {
        Ok(rerouted) => Ok(rerouted.filter(|_| report)?),
        Err(failure) => Err(failure),
    };
    Some(Notice { to, outcome })
}
