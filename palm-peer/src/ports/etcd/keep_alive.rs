//! Renewals of one lease over one stream.

use std::time::Duration;

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};
use futures::future::{Either, select};

use super::{
    Etcd,
    error::{EtcdError, EtcdErrorKind, silence},
    failover::Place,
    history::{Answered, member_header},
};
use crate::facts::ids::LeaseId;

/// A stream to one endpoint, over which one lease is renewed. It never moves to another endpoint by itself.
pub struct KeepAlive {
    /// Keeps the thread running that the stream lives on.
    etcd: Etcd,
    place: Place,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
    /// Renewals that were sent and whose answer has not been read.
    unanswered: u64,
    broken: bool,
}

impl KeepAlive {
    /// Opens the stream with a first renewal.
    pub(super) async fn open(etcd: &Etcd, lease: LeaseId) -> Result<Self, EtcdError> {
        let (place, keeper, answers) = etcd
            .request(move |connection| async move {
                // A lease that the cluster knows is one that it gave: the header of this first answer need not be seen.
                let (keeper, answers) = connection.client().lease_keep_alive(lease.value()).await?;
                Ok(Answered { header: None, value: (connection.place, keeper, answers) })
            })
            .await?;
        Ok(Self { etcd: etcd.clone(), place, keeper, answers, unanswered: 0, broken: false })
    }

    /// Renews the lease: `Some` is its TTL from now on, `None` means that etcd no longer has it.
    ///
    /// The lease counts as held until that TTL after the moment **before** this was called. Takes the request
    /// timeout at most. Cancel safe: the answer to an abandoned renewal is never taken for that of a later one.
    ///
    /// # Errors
    ///
    /// The stream is no good any more: open another by [`Etcd::keep_alive`], which begins at another endpoint. Whether
    /// the lease was renewed is unknown. Every later call fails, too.
    pub async fn renew(&mut self) -> Result<Option<Duration>, EtcdError> {
        if self.broken {
            let reason = "the stream of renewals broke before".to_owned();
            return Err(self.failed(EtcdErrorKind::Unreachable, reason));
        }
        let limit = self.etcd.pool().request_timeout();
        let timer = self.etcd.timer(limit);
        let outcome = match select(Box::pin(self.exchange()), Box::pin(timer)).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => Err(Broken::Silent),
        };
        let error = match outcome {
            Ok(ttl) => return Ok(ttl),
            Err(Broken::Ended) => self.failed(EtcdErrorKind::Unreachable, "the stream of renewals ended".to_owned()),
            Err(Broken::Silent) => self.failed(EtcdErrorKind::Unreachable, silence(limit)),
            Err(Broken::Foreign(error)) => error,
            Err(Broken::Failed(error)) => {
                let error = self.etcd.pool().stream_error(self.place, &error);
                if error.kind() == EtcdErrorKind::LeaseGone {
                    return Ok(None);
                }
                error
            }
        };
        self.broken = true;
        self.etcd.pool().avoid(self.place);
        Err(error)
    }

    /// Sends a renewal and waits for the answer to this very one: etcd answers each, in their order.
    async fn exchange(&mut self) -> Result<Option<Duration>, Broken> {
        // After a break this still says Ok; the answers' end tells.
        self.keeper.keep_alive().await.map_err(|_| Broken::Ended)?;
        self.unanswered += 1;
        loop {
            let answer = self.answers.message().await.map_err(Broken::Failed)?.ok_or(Broken::Ended)?;
            self.unanswered -= 1;
            self.etcd.pool().accept(self.place, member_header(answer.header())).map_err(Broken::Foreign)?;
            if self.unanswered == 0 {
                let seconds = u64::try_from(answer.ttl()).unwrap_or(0);
                return Ok((seconds > 0).then(|| Duration::from_secs(seconds)));
            }
        }
    }

    fn failed(&self, kind: EtcdErrorKind, reason: String) -> EtcdError {
        self.etcd.pool().stream_failed(self.place, kind, reason)
    }
}

/// Why a renewal has no answer.
enum Broken {
    Ended,
    Silent,
    Foreign(EtcdError),
    Failed(etcd_client::Error),
}
