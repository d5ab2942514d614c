//! Identifies the cluster of each endpoint, in addition to the headers of responses.

use std::time::Duration;

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, timeout_at};

use super::{
    connection::{Connection, ConnectionId},
    endpoint_pool::{EndpointError, Pool},
    error::{EtcdError, EtcdErrorKind},
    history::{cluster_of, member_header},
};
use palm_proto::etcd_history::{ClusterId, Header};

/// How long the endpoints may take to report their cluster before the first request.
const IDENTIFY_TIMEOUT: Duration = Duration::from_millis(500);

impl Pool {
    /// Checks the cluster after an error, which has no header: an error of a foreign cluster, such
    /// as for a lease that it never granted, means nothing.
    pub(super) async fn check_cluster(
        &self,
        connection: &Connection,
        limit: Instant,
    ) -> Result<(), EndpointError> {
        let index = connection.place.endpoint;
        let sent = self.history.sent();
        let Ok(Ok(status)) = timeout_at(limit, connection.client().status()).await else {
            return Ok(());
        };
        let header = member_header(status.header());
        let accepted = self
            .history
            .accept(index, &self.endpoints[index].url, sent, header);
        accepted.map(drop).map_err(EndpointError::Foreign)
    }

    /// Asks all endpoints for their cluster before the first request, until a majority agrees.
    pub(super) async fn identify(&self) {
        if self.endpoints.len() < 2 || self.history.is_known() {
            return;
        }
        let mut done = self.identifying.lock().await;
        if std::mem::replace(&mut *done, true) {
            return;
        }
        let limit = Instant::now() + IDENTIFY_TIMEOUT.min(self.request_timeout);
        let mut reported = vec![None; self.endpoints.len()];
        let mut asked: FuturesUnordered<_> = (0..reported.len())
            .map(|index| self.cluster_at(index))
            .collect();
        while let Ok(Some((index, cluster))) = timeout_at(limit, asked.next()).await {
            reported[index] = cluster;
            let alike = reported
                .iter()
                .filter(|other| cluster.is_some() && **other == cluster)
                .count();
            if 2 * alike > reported.len() {
                break;
            }
        }
        self.history.identify(&reported);
    }

    async fn cluster_at(&self, index: usize) -> (usize, Option<ClusterId>) {
        let Ok((connection, _)) = self.connection(index).await else {
            return (index, None);
        };
        let status = connection.client().status().await;
        (index, status.ok().map(|status| cluster_of(status.header())))
    }

    /// Checks the header of a message of a stream; an error when it comes from another cluster.
    pub(super) fn accept(&self, place: ConnectionId, header: Header) -> Result<(), EtcdError> {
        let sent = self.history.sent();
        self.history
            .accept(
                place.endpoint,
                &self.endpoints[place.endpoint].url,
                sent,
                header,
            )
            .map(drop)
            .map_err(|reason| self.stream_failed(place, EtcdErrorKind::WrongCluster, reason))
    }

    /// Says that a request failed which will be made again: a lasting refusal as a warning, at
    /// once and then once a minute, because an administrator must act; anything else at DEBUG,
    /// because it passes.
    pub(super) fn log_failure(&self, what: &str, error: &EtcdError) {
        if error.is_refusal()
            && let Some(suppressed) = self
                .history
                .should_log(format!("{what} {:?}", error.kind()))
        {
            log::warn!("{what} failed: {error}{suppressed}");
        } else {
            log::debug!("{what} failed: {error}");
        }
    }
}
