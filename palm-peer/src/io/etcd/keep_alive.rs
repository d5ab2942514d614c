//! Keep-alives of one lease over one stream.

use std::time::Duration;

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};
use futures::future::{Either, select};

use super::{
    Etcd,
    connection::Connection,
    endpoint_pool::SLOW_FACTOR,
    error::{EtcdError, EtcdErrorKind, silence},
    history::{Response, member_header},
};
use palm_proto::types::ids::LeaseId;

/// A stream to one endpoint that renews one lease. It never moves to another endpoint by itself.
pub(crate) struct KeepAlive {
    /// Keeps the stream's thread running.
    etcd: Etcd,
    connection: Connection,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
    /// The number of renewals that were sent and whose response has not been read.
    unanswered: u64,
    broken: bool,
}

impl KeepAlive {
    /// Opens the stream with a first renewal.
    pub(super) async fn open(etcd: &Etcd, lease: LeaseId) -> Result<Self, EtcdError> {
        let opened = etcd.request(move |connection| open(connection, lease));
        Ok(Self::new(etcd, opened.await?))
    }

    /// As the function above, at this endpoint alone.
    pub(super) async fn open_at(
        etcd: &Etcd,
        lease: LeaseId,
        endpoint: usize,
    ) -> Result<Self, EtcdError> {
        let opened = etcd.request_at(endpoint, move |connection| open(connection, lease));
        Ok(Self::new(etcd, opened.await?))
    }

    fn new(etcd: &Etcd, (connection, keeper, answers): Opened) -> Self {
        Self {
            etcd: etcd.clone(),
            connection,
            keeper,
            answers,
            unanswered: 0,
            broken: false,
        }
    }

    /// Returns the endpoint that the stream leads to.
    pub(super) fn endpoint(&self) -> usize {
        self.connection.place.endpoint
    }

    /// Renews the lease. Returns its new TTL; `None` when etcd no longer has it.
    ///
    /// The lease counts as held until that TTL after the moment **before** this was called. Takes
    /// at most the request timeout, or four times as long if there is no other endpoint and the
    /// connection is alive. Cancel safe: the response to an abandoned renewal is never taken for
    /// that of a later one.
    ///
    /// After an error every later call fails too, and it is unknown whether the lease was renewed:
    /// open another stream by [`Etcd::keep_alive`], which begins at another endpoint.
    pub(crate) async fn renew(&mut self) -> Result<Option<Duration>, EtcdError> {
        if self.broken {
            let reason = "the stream of renewals broke before".to_owned();
            return Err(self.failed(EtcdErrorKind::Unreachable, reason));
        }
        let given_up = max_wait(self.etcd.clone(), self.connection.clone());
        let outcome = match select(Box::pin(self.exchange()), Box::pin(given_up)).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right((reason, _)) => Err(RenewalError::Silent(reason)),
        };
        let error = match outcome {
            Ok(ttl) => return Ok(ttl),
            Err(RenewalError::Ended) => self.failed(
                EtcdErrorKind::Unreachable,
                "the stream of renewals ended".to_owned(),
            ),
            Err(RenewalError::Silent(reason)) => {
                self.broken = true;
                // The connection may work: its other users check that themselves.
                self.etcd.pool().move_on(self.connection.place);
                return Err(self.failed(EtcdErrorKind::Unreachable, reason));
            }
            Err(RenewalError::Foreign(error)) => error,
            Err(RenewalError::Failed(error)) => {
                let error = self.etcd.pool().stream_error(self.connection.place, &error);
                if error.kind() == EtcdErrorKind::LeaseGone {
                    return Ok(None);
                }
                error
            }
        };
        self.broken = true;
        self.etcd.pool().demote(self.connection.place);
        Err(error)
    }

    /// Sends a renewal and waits for its own response: etcd answers all of them in order.
    async fn exchange(&mut self) -> Result<Option<Duration>, RenewalError> {
        // After a break this still returns Ok; the end of the responses shows it.
        self.keeper
            .keep_alive()
            .await
            .map_err(|_| RenewalError::Ended)?;
        self.unanswered += 1;
        loop {
            let answer = self
                .answers
                .message()
                .await
                .map_err(RenewalError::Failed)?
                .ok_or(RenewalError::Ended)?;
            self.unanswered -= 1;
            self.connection.life.received();
            self.etcd
                .pool()
                .accept(self.connection.place, member_header(answer.header()))
                .map_err(RenewalError::Foreign)?;
            if self.unanswered == 0 {
                let seconds = u64::try_from(answer.ttl()).unwrap_or(0);
                return Ok((seconds > 0).then(|| Duration::from_secs(seconds)));
            }
        }
    }

    fn failed(&self, kind: EtcdErrorKind, reason: String) -> EtcdError {
        self.etcd
            .pool()
            .stream_failed(self.connection.place, kind, reason)
    }
}

type Opened = (Connection, LeaseKeeper, LeaseKeepAliveStream);

/// Opens a stream over this connection.
async fn open(
    connection: Connection,
    lease: LeaseId,
) -> Result<Response<Opened>, etcd_client::Error> {
    let (keeper, answers) = connection.client().lease_keep_alive(lease.value()).await?;
    Ok(Response {
        // A cluster that knows the lease has granted it: the header of this first response
        // need not be checked.
        header: None,
        value: (connection, keeper, answers),
    })
}

/// Waits for as long as the response to a renewal may take, and returns the error message: the
/// request timeout, if there are other endpoints; otherwise longer, while the connection is alive,
/// since another stream to the same etcd would not be faster.
async fn max_wait(etcd: Etcd, connection: Connection) -> String {
    let pool = etcd.pool().clone();
    let (timeout, late) = (pool.request_timeout(), pool.request_timeout() / 2);
    etcd.timer(late).await;
    pool.check(&connection);
    etcd.timer(timeout.saturating_sub(late)).await;
    let max_wait = if pool.endpoints.len() == 1 {
        timeout * SLOW_FACTOR
    } else {
        pool.max_wait()
    };
    let rest = etcd.timer(max_wait.saturating_sub(timeout));
    match select(Box::pin(connection.life.silent()), Box::pin(rest)).await {
        Either::Left(_) => silence(timeout),
        Either::Right(_) => silence(max_wait),
    }
}

/// Why a renewal has no response.
enum RenewalError {
    Ended,
    Silent(String),
    Foreign(EtcdError),
    Failed(etcd_client::Error),
}
