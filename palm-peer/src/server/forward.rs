//! How the serving loop passes messages on, and what it does when that fails.

use super::{
    dispatch::Serving,
    parcel::{Parcel, ReturnAddress},
    task::Stuck,
    unconfirmed::Lost,
};
use crate::io::timer;
use bytes::Bytes;
use futures::FutureExt as _;
use palm_proto::types::message::Request;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How long after a process has ended it may still be published: the leader takes it out within a second.
const PUBLISHED_FOR: Duration = Duration::from_secs(2);

impl Serving {
    pub(super) fn pass_on(
        &mut self,
        to: &ReturnAddress,
        request: Request,
        payload: Bytes,
        deadline: Instant,
        leaving: bool,
    ) {
        self.pass_on_parcel(Parcel { to: to.clone(), request, payload, deadline }, leaving);
    }

    fn pass_on_parcel(&mut self, parcel: Parcel, leaving: bool) {
        let to = parcel.to.clone();
        if let Some(passing) = self.core.relay.pass_on(parcel, leaving) {
            self.onward.push(passing.map(|passed| passed.err().map(|failure| Stuck { to, failure })).boxed());
        }
    }

    pub(super) fn stuck(&mut self, stuck: Option<Stuck>) {
        if let Some(Stuck { to, failure }) = stuck {
            self.answer(&to, Err(failure));
        }
    }

    /// Passes on again what may have been lost with a connection. Where the process has ended, the client has noticed that
    /// itself, and counts the attempt: one message that ends each process that runs it must not come to more of them by this.
    pub(super) fn lost(&mut self, lost: Lost) {
        let count = lost.parcels.len();
        for parcel in lost.parcels {
            let (relay, to, swallowed) = (Arc::clone(&self.core.relay), parcel.to.clone(), lost.swallowed);
            let instance = lost.to;
            let passing = async move {
                if !swallowed {
                    timer::sleep(PUBLISHED_FOR).await;
                    if !relay.is_published(instance) {
                        return None;
                    }
                }
                // The client has given it up; and a server that ends each connection must not be sent it for ever.
                if Instant::now() >= parcel.deadline {
                    return None;
                }
                let passing = relay.pass_on(parcel, false)?;
                passing.await.err().map(|failure| Stuck { to, failure })
            };
            self.onward.push(passing.boxed());
        }
        log::debug!("the connection to server {} ended: {count} messages may be lost with it", lost.to);
    }
}
