//! Renews a lease at whichever endpoint answers.

use std::time::{Duration, Instant};

use futures::FutureExt as _;

use super::{
    Etcd, KeepAlive,
    error::{EtcdError, EtcdErrorKind},
};
use crate::io::hedge::hedged;
use palm_proto::types::ids::LeaseId;

/// A renewal that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Renewed {
    /// The moment before it was sent: the TTL counts from here.
    pub sent: Instant,
    /// The TTL.
    pub ttl: Duration,
}

/// Renews one lease, over a stream to one endpoint at a time. While that does not answer, the
/// renewal is sent to the others as well, and the first that answers is used from then on.
pub(crate) struct Renewals {
    etcd: Etcd,
    lease: LeaseId,
    stream: Option<KeepAlive>,
}

/// A renewal, and its stream if that is a new one.
type Attempt = (Option<Renewed>, Option<KeepAlive>);

impl Renewals {
    /// Opens no stream yet.
    pub(crate) fn new(etcd: Etcd, lease: LeaseId) -> Self {
        Self {
            etcd,
            lease,
            stream: None,
        }
    }

    /// Renews the lease; `None` when etcd no longer has it. `hedge_after` returns how long to wait
    /// for an answer before the next endpoint is asked as well. Fails when no endpoint answers
    /// within the request timeout. Cancel safe.
    pub(crate) async fn renew(
        &mut self,
        hedge_after: impl Fn(Instant) -> Duration,
    ) -> Result<Option<Renewed>, EtcdError> {
        let (etcd, lease) = (self.etcd.clone(), self.lease);
        let current = self.stream.as_ref().map(KeepAlive::endpoint);
        let mut order = etcd.pool().order();
        // The stream that exists is the first choice: it costs one message.
        if let Some(current) = current {
            order.retain(|endpoint| *endpoint != current);
            order.insert(0, current);
        }
        let mut stream = self.stream.as_mut();
        let attempt = |endpoint: usize| match stream.take() {
            Some(stream) => over(stream).boxed(),
            None => at(etcd.clone(), lease, endpoint).boxed(),
        };
        let pause = || etcd.timer(hedge_after(Instant::now()));
        let outcome = hedged(&order, attempt, pause, |error: &EtcdError| {
            error.kind() == EtcdErrorKind::LeaseGone
        })
        .await;
        match outcome {
            Ok(hedged) => {
                let (renewed, stream) = hedged.value;
                self.etcd
                    .pool()
                    .answered_first(hedged.winner, &hedged.losers);
                if stream.is_some() {
                    self.stream = stream;
                }
                Ok(renewed)
            }
            Err(errors) => {
                self.stream = None;
                let gone = |error: &EtcdError| error.kind() == EtcdErrorKind::LeaseGone;
                if errors.iter().any(|(_, error)| gone(error)) {
                    return Ok(None);
                }
                Err(EtcdError::of_each(
                    errors.into_iter().map(|(_, error)| error),
                ))
            }
        }
    }
}

/// Renews the lease over an open stream.
async fn over(stream: &mut KeepAlive) -> Result<Attempt, EtcdError> {
    let sent = Instant::now();
    let ttl = stream.renew().await?;
    Ok((ttl.map(|ttl| Renewed { sent, ttl }), None))
}

/// Renews the lease over a new stream to this endpoint.
async fn at(etcd: Etcd, lease: LeaseId, endpoint: usize) -> Result<Attempt, EtcdError> {
    let mut stream = KeepAlive::open_at(&etcd, lease, endpoint).await?;
    let (renewed, _) = over(&mut stream).await?;
    Ok((renewed, Some(stream)))
}
