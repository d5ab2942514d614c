//! One client per endpoint, and failover of requests between them.
//!
//! The crate's own load balancing keeps sending requests to dead or frozen members, so each client
//! here has one endpoint only, and this module chooses.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use etcd_client::ConnectOptions;
use futures::{
    FutureExt as _,
    future::{Either, select},
};
use tokio::{
    runtime::Handle,
    sync::Mutex as AsyncMutex,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    connection::{Connection, ConnectionId, options},
    diagnosis::Diagnosis,
    error::{EtcdError, EtcdErrorKind, Recovery, classify, describe, silence},
    history::{History, Response},
    life::Doubt,
    metrics::EtcdMetrics,
    settings::{EtcdSettings, TlsSource},
};
use crate::io::{hedge::hedged, tls::EtcdTls};
use palm_proto::{endpoint_order::EndpointOrder, etcd_history::EtcdHistory, hedging::Hedging};

/// By which factor the request timeout is extended while etcd is slow.
pub(super) const SLOW_FACTOR: u32 = 4;

/// How long the diagnosis of a failure may take, beyond the request's own time.
const CHECK_WITHIN: Duration = Duration::from_millis(500);

/// All endpoints, and which of them to try first.
pub(super) struct Pool {
    pub(super) endpoints: Vec<Endpoint>,
    order: Mutex<EndpointOrder>,
    hedging: Mutex<Hedging>,
    pub(super) options: ConnectOptions,
    /// The source of the TLS material, and the last that could be read.
    pub(super) tls: Option<(TlsSource, Mutex<Option<EtcdTls>>)>,
    pub(super) user: Option<(String, String)>,
    pub(super) request_timeout: Duration,
    pub(super) generations: AtomicU64,
    /// Locked until the endpoints have reported their cluster.
    pub(super) identifying: AsyncMutex<bool>,
    pub(super) history: Arc<History>,
    pub(super) metrics: Arc<EtcdMetrics>,
    /// The runtime for tasks.
    thread: Handle,
}

/// One endpoint and its client, once there is one.
pub(super) struct Endpoint {
    pub(super) url: String,
    pub(super) slot: Mutex<Option<Connection>>,
    /// Locked while connecting, so that a hundred waiting requests authenticate once.
    pub(super) connecting: AsyncMutex<()>,
    diagnosis: Diagnosis,
}

/// How one endpoint failed.
pub(super) enum EndpointError {
    /// Every endpoint would fail in the same way.
    Definite(EtcdErrorKind, String),
    /// Another endpoint may succeed.
    Elsewhere(String),
    /// TLS with that endpoint failed.
    Tls(String),
    /// Another cluster answered there.
    Foreign(String),
}

impl Pool {
    /// `beside` is another pool for the same endpoints, if there is one: they share their history
    /// and their counters.
    pub(super) fn new(settings: EtcdSettings, thread: Handle, beside: Option<&Self>) -> Self {
        let endpoints: Vec<Endpoint> = settings
            .endpoints
            .into_iter()
            .map(|url| Endpoint {
                url,
                slot: Mutex::new(None),
                connecting: AsyncMutex::new(()),
                diagnosis: Diagnosis::default(),
            })
            .collect();
        let new_history = || {
            History::new(EtcdHistory::new(
                endpoints.len(),
                settings.cluster_lost_after,
            ))
        };
        let (history, metrics) = match beside {
            Some(other) => (Arc::clone(&other.history), Arc::clone(&other.metrics)),
            None => (Arc::new(new_history()), Arc::default()),
        };
        Self {
            // A mesh that starts at once must not load a single member.
            order: Mutex::new(EndpointOrder::new(
                endpoints.len(),
                fastrand::usize(..endpoints.len().max(1)),
            )),
            endpoints,
            hedging: Mutex::default(),
            options: options(),
            tls: settings.tls.map(|source| (source, Mutex::new(None))),
            user: settings.user,
            request_timeout: settings.request_timeout,
            generations: AtomicU64::new(0),
            identifying: AsyncMutex::new(false),
            history,
            metrics,
            thread,
        }
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Tries the endpoints, beginning where the last request succeeded, until one gives a
    /// definite answer. The next one is tried when one fails, or beside one that is late. Must
    /// run on etcd's thread.
    pub(super) async fn try_endpoints<T, F, Fut>(&self, request: F) -> Result<T, EtcdError>
    where
        T: Send,
        F: Fn(Connection) -> Fut + Sync,
        Fut: Future<Output = Result<Response<T>, etcd_client::Error>> + Send,
    {
        self.identify().await;
        let order = self.order();
        let outcome = hedged(
            &order,
            |index| self.ask(index, &request).boxed(),
            || self.until_hedge(),
            |error| matches!(error, EndpointError::Definite(..)),
        );
        match outcome.await {
            Ok(hedged) => {
                self.answered_first(hedged.winner, &hedged.losers);
                Ok(hedged.value)
            }
            Err(errors) => Err(self.error_of(errors)),
        }
    }

    /// Waits until a request without an answer is sent to another endpoint as well: much longer
    /// than usual, or half of its time.
    async fn until_hedge(&self) {
        let max = self.max_wait() / 2;
        let delay = self.hedging().delay(max);
        sleep(delay).await;
        if !self.hedging().try_take() {
            sleep(max.saturating_sub(delay)).await;
        }
    }

    /// It is consistent after each call.
    fn hedging(&self) -> MutexGuard<'_, Hedging> {
        self.hedging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries one endpoint alone. Must run on etcd's thread.
    pub(super) async fn try_endpoint<T, F, Fut>(
        &self,
        index: usize,
        request: F,
    ) -> Result<T, EtcdError>
    where
        F: Fn(Connection) -> Fut,
        Fut: Future<Output = Result<Response<T>, etcd_client::Error>>,
    {
        self.identify().await;
        let answer = self.ask(index, &request).await;
        answer.map_err(|error| self.error_of(vec![(index, error)]))
    }

    /// Returns the error of a request that failed in these ways: the definite one, if there is one.
    fn error_of(&self, errors: Vec<(usize, EndpointError)>) -> EtcdError {
        let mut kind = EtcdErrorKind::Unreachable;
        let mut reasons = Vec::new();
        for (index, error) in errors {
            let url = &self.endpoints[index].url;
            let reason = match error {
                EndpointError::Definite(kind, reason) => {
                    return EtcdError::definite(kind, url, self.with_user(kind, reason));
                }
                EndpointError::Elsewhere(reason) => reason,
                EndpointError::Tls(reason) => {
                    if kind == EtcdErrorKind::Unreachable {
                        kind = EtcdErrorKind::Tls;
                    }
                    reason
                }
                EndpointError::Foreign(reason) => {
                    kind = EtcdErrorKind::WrongCluster;
                    reason
                }
            };
            reasons.push((url.clone(), reason));
        }
        EtcdError::of_all(kind, reasons)
    }

    /// Adds the user's name to an error about permissions.
    fn with_user(&self, kind: EtcdErrorKind, reason: String) -> String {
        match &self.user {
            _ if kind != EtcdErrorKind::Denied => reason,
            Some((name, _)) => format!("{reason}, as user {name}"),
            None => format!("{reason}, without a user"),
        }
    }

    /// Tries one endpoint; again if the connection or the token was an old one and proved stale.
    async fn ask<T, F, Fut>(&self, index: usize, request: &F) -> Result<T, EndpointError>
    where
        F: Fn(Connection) -> Fut,
        Fut: Future<Output = Result<Response<T>, etcd_client::Error>>,
    {
        let mut last = false;
        loop {
            let limit = Instant::now() + self.request_timeout;
            let (connection, fresh) = match timeout_at(limit, self.connection(index)).await {
                Err(_) => return Err(EndpointError::Elsewhere(silence(self.request_timeout))),
                Ok(Err(error)) => return Err(self.failure_at(index, &error, limit).await),
                Ok(Ok(connection)) => connection,
            };
            let sent = self.history.sent();
            let began = Instant::now();
            let error = match self
                .patiently(&connection, Box::pin(request(connection.clone())))
                .await
            {
                Err(waited) => return Err(EndpointError::Elsewhere(silence(waited))),
                Ok(Err(error)) => error,
                Ok(Ok(answer)) => {
                    connection.life.received();
                    self.hedging().answered(began.elapsed());
                    if let Some(header) = answer.header {
                        let url = &self.endpoints[index].url;
                        if !self
                            .history
                            .accept(index, url, sent, header)
                            .map_err(EndpointError::Foreign)?
                        {
                            let reason = "it answered before its history went back";
                            return Err(EndpointError::Elsewhere(reason.to_owned()));
                        }
                    }
                    return Ok(answer.value);
                }
            };
            let limit = limit.max(Instant::now() + CHECK_WITHIN);
            let recovery = classify(&error);
            if matches!(recovery, Recovery::Definite(_)) {
                self.check_cluster(&connection, limit).await?;
            }
            if matches!(recovery, Recovery::Broken | Recovery::StaleToken) {
                self.invalidate(connection.place);
                if !fresh && !last {
                    last = true;
                    continue;
                }
            }
            return Err(self.failure_at(index, &error, limit).await);
        }
    }

    /// Waits for an answer over this connection; an error says how long it waited. When the answer
    /// is late, checks whether the connection is alive, without affecting its streams.
    async fn patiently<T>(
        &self,
        connection: &Connection,
        mut answer: impl Future<Output = T> + Unpin,
    ) -> Result<T, Duration> {
        let late = self.request_timeout / 2;
        if let Ok(answer) = timeout(late, &mut answer).await {
            return Ok(answer);
        }
        self.check(connection);
        if let Ok(answer) = timeout(self.request_timeout.saturating_sub(late), &mut answer).await {
            return Ok(answer);
        }
        let max_wait = self.max_wait();
        let silent = connection.life.silent();
        tokio::pin!(silent);
        match timeout(
            max_wait.saturating_sub(self.request_timeout),
            select(answer, silent),
        )
        .await
        {
            Ok(Either::Left((answer, _))) => Ok(answer),
            Ok(Either::Right(_)) => Err(self.request_timeout),
            Err(_) => Err(max_wait),
        }
    }

    /// Checks whether a connection with a late answer is alive.
    pub(super) fn check(&self, connection: &Connection) {
        connection.life.check(
            &self.thread,
            Doubt::Slow,
            connection.client(),
            self.request_timeout * 3 / 2,
        );
    }

    /// Returns how long a request may take: longer while all endpoints are slow but alive, since
    /// retries would make them slower.
    pub(super) fn max_wait(&self) -> Duration {
        let slow = |endpoint: &Endpoint| {
            endpoint
                .connected()
                .is_some_and(|connection| connection.life.is_slow())
        };
        if self.endpoints.iter().all(slow) {
            self.request_timeout * SLOW_FACTOR
        } else {
            self.request_timeout
        }
    }

    /// Returns what a failure means for the other endpoints. When the connection broke,
    /// checks whether TLS is the cause: the client's own message is only "operation was
    /// canceled" or "broken pipe".
    async fn failure_at(
        &self,
        index: usize,
        error: &etcd_client::Error,
        limit: Instant,
    ) -> EndpointError {
        let endpoint = &self.endpoints[index];
        if classify(error) == Recovery::Broken && !describe(error).contains("tcp connect error") {
            let tls = self
                .tls
                .as_ref()
                .and_then(|(_, last)| last.lock().unwrap_or_else(PoisonError::into_inner).clone());
            let found =
                timeout_at(limit, endpoint.diagnosis.find(&endpoint.url, tls.as_ref())).await;
            if let Ok(Some(reason)) = found {
                return EndpointError::Tls(reason);
            }
        }
        failure(error)
    }

    /// Drops a client, so that the next request there connects and authenticates again. Streams on
    /// its connection continue, unless it proves dead.
    pub(super) fn invalidate(&self, place: ConnectionId) {
        let mut slot = self.endpoints[place.endpoint].slot();
        if let Some(connection) = slot.take_if(|connection| connection.place == place) {
            connection.life.check(
                &self.thread,
                Doubt::Failed,
                connection.client(),
                self.request_timeout,
            );
        }
    }

    /// Returns the endpoints in the order in which to try them.
    pub(super) fn order(&self) -> Vec<usize> {
        self.ordering().all().to_vec()
    }

    /// Replaced as a whole, so a panic cannot leave it half written.
    fn ordering(&self) -> MutexGuard<'_, EndpointOrder> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An endpoint answered a request that the `losers` failed, or have not answered, although they
    /// were asked before.
    pub(super) fn answered_first(&self, winner: usize, losers: &[usize]) {
        if !losers.is_empty() {
            self.metrics.failovers.increment();
        }
        let mut order = self.ordering();
        for loser in losers {
            order.failed(*loser);
        }
        order.succeeded(winner);
        drop(order);
        // They are not slow together, as etcd as a whole would be.
        for endpoint in losers
            .iter()
            .chain([&winner])
            .filter(|_| !losers.is_empty())
        {
            if let Some(connection) = &*self.endpoints[*endpoint].slot() {
                connection.life.not_slow();
            }
        }
    }

    /// Makes the next request begin at another endpoint.
    pub(super) fn move_on(&self, place: ConnectionId) {
        self.ordering().failed(place.endpoint);
    }

    /// Drops a client, and makes the next request begin at another endpoint.
    pub(super) fn demote(&self, place: ConnectionId) {
        self.invalidate(place);
        self.move_on(place);
    }

    /// Makes the next request begin at this endpoint, for tests.
    #[cfg(test)]
    pub(super) fn begin_at(&self, index: usize) {
        self.ordering().succeeded(index);
    }

    /// Returns the endpoint where the last request succeeded, for tests.
    #[cfg(test)]
    pub(super) fn begins_at(&self) -> usize {
        self.ordering().first().unwrap_or_default()
    }

    /// Returns the id of the endpoint's current client, for tests.
    #[cfg(test)]
    pub(super) fn place_of(&self, index: usize) -> Option<ConnectionId> {
        self.endpoints[index]
            .connected()
            .map(|connection| connection.place)
    }

    /// Returns the error of a stream on this connection.
    pub(super) fn stream_error(
        &self,
        place: ConnectionId,
        error: &etcd_client::Error,
    ) -> EtcdError {
        match failure(error) {
            EndpointError::Definite(kind, reason) => self.stream_failed(place, kind, reason),
            EndpointError::Elsewhere(reason)
            | EndpointError::Tls(reason)
            | EndpointError::Foreign(reason) => {
                self.stream_failed(place, EtcdErrorKind::Unreachable, reason)
            }
        }
    }

    /// As the method above, with a message of our own.
    pub(super) fn stream_failed(
        &self,
        place: ConnectionId,
        kind: EtcdErrorKind,
        reason: String,
    ) -> EtcdError {
        EtcdError::definite(kind, &self.endpoints[place.endpoint].url, reason)
    }
}

impl Endpoint {
    /// A slot is only replaced as a whole, so a panic cannot leave it half written.
    pub(super) fn slot(&self) -> MutexGuard<'_, Option<Connection>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connected(&self) -> Option<Connection> {
        self.slot()
            .clone()
            .filter(|connection| !connection.life.is_silent())
    }
}

/// Returns what a failure at one endpoint means for the others.
fn failure(error: &etcd_client::Error) -> EndpointError {
    match classify(error) {
        Recovery::Definite(kind) => EndpointError::Definite(kind, describe(error)),
        // The token was new already.
        Recovery::StaleToken => EndpointError::Definite(EtcdErrorKind::Denied, describe(error)),
        Recovery::Elsewhere | Recovery::Broken => EndpointError::Elsewhere(describe(error)),
    }
}
