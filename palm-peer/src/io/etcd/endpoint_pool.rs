//! One client an endpoint, and the turn that a request takes around them.
//!
//! The crate's own balancing goes on handing requests to members that are dead or frozen, so each client here knows
//! one endpoint only, and we choose.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::ConnectOptions;
use futures::future::{Either, select};
use tokio::{
    runtime::Handle,
    sync::Mutex as AsyncMutex,
    time::{Instant, timeout, timeout_at},
};

use super::{
    connection::{Connection, ConnectionId, options},
    diagnosis::Diagnosis,
    error::{EtcdError, EtcdErrorKind, Recovery, classify, describe, silence},
    history::{History, Response},
    life::Doubt,
    settings::{EtcdSettings, TlsSource},
};
use crate::io::tls::EtcdTls;
use palm_proto::etcd_history::EtcdHistory;

/// How many times the request timeout a request may take while etcd is slow.
pub(super) const SLOW_FACTOR: u32 = 4;

/// How long it may take to find out what a failure means, beyond the request's own time.
const CHECK_WITHIN: Duration = Duration::from_millis(500);

/// All endpoints, and which of them to ask first.
pub(super) struct Pool {
    pub(super) endpoints: Vec<Endpoint>,
    /// Where the last request succeeded.
    current: AtomicUsize,
    pub(super) options: ConnectOptions,
    /// What TLS is made of, and what that was when it could last be told.
    pub(super) tls: Option<(TlsSource, Mutex<Option<EtcdTls>>)>,
    pub(super) user: Option<(String, String)>,
    pub(super) request_timeout: Duration,
    pub(super) generations: AtomicU64,
    /// Held until the endpoints have said which cluster they belong to.
    pub(super) identifying: AsyncMutex<bool>,
    pub(super) history: Arc<History>,
    /// Where tasks run.
    thread: Handle,
}

/// One endpoint and its client, once there is one.
pub(super) struct Endpoint {
    pub(super) url: String,
    pub(super) slot: Mutex<Option<Connection>>,
    /// Held while connecting, so that a hundred waiting requests authenticate once.
    pub(super) connecting: AsyncMutex<()>,
    diagnosis: Diagnosis,
}

/// How one endpoint failed.
pub(super) enum EndpointError {
    /// Every endpoint would fail so.
    Definite(EtcdErrorKind, String),
    /// Another endpoint may do better.
    Elsewhere(String),
    /// There is no TLS with that endpoint.
    Tls(String),
    /// Another cluster answered there.
    Foreign(String),
}

impl Pool {
    /// `history` is that of another pool for the same endpoints, if there is one.
    pub(super) fn new(settings: EtcdSettings, thread: Handle, history: Option<Arc<History>>) -> Self {
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
        let new_history = || History::new(EtcdHistory::new(endpoints.len(), settings.cluster_lost_after));
        let history = history.unwrap_or_else(|| Arc::new(new_history()));
        Self {
            // A mesh that starts at once shall not fall upon one member.
            current: AtomicUsize::new(fastrand::usize(..endpoints.len().max(1))),
            endpoints,
            options: options(),
            tls: settings.tls.map(|source| (source, Mutex::new(None))),
            user: settings.user,
            request_timeout: settings.request_timeout,
            generations: AtomicU64::new(0),
            identifying: AsyncMutex::new(false),
            history,
            thread,
        }
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Asks the endpoints in turn, beginning where the last request succeeded, until one gives an answer, good or
    /// bad. Must run on etcd's thread.
    pub(super) async fn try_endpoints<T, F, Fut>(&self, request: F) -> Result<T, EtcdError>
    where
        F: Fn(Connection) -> Fut,
        Fut: Future<Output = Result<Response<T>, etcd_client::Error>>,
    {
        self.identify().await;
        let mut kind = EtcdErrorKind::Unreachable;
        let first = self.current.load(Ordering::Relaxed);
        let mut reasons = Vec::new();
        for step in 0..self.endpoints.len() {
            let index = (first + step) % self.endpoints.len();
            let url = &self.endpoints[index].url;
            match self.ask(index, &request).await {
                Ok(answer) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(EndpointError::Definite(kind, reason)) => {
                    return Err(EtcdError::definite(kind, url, self.with_user(kind, reason)));
                }
                Err(EndpointError::Elsewhere(reason)) => reasons.push((url.clone(), reason)),
                Err(EndpointError::Tls(reason)) => {
                    if kind == EtcdErrorKind::Unreachable {
                        kind = EtcdErrorKind::Tls;
                    }
                    reasons.push((url.clone(), reason));
                }
                Err(EndpointError::Foreign(reason)) => {
                    kind = EtcdErrorKind::WrongCluster;
                    reasons.push((url.clone(), reason));
                }
            }
        }
        Err(EtcdError::of_all(kind, reasons))
    }

    /// Who was denied something must know as whom it asked.
    fn with_user(&self, kind: EtcdErrorKind, reason: String) -> String {
        match &self.user {
            _ if kind != EtcdErrorKind::Denied => reason,
            Some((name, _)) => format!("{reason}, asked as {name}"),
            None => format!("{reason}, asked as nobody"),
        }
    }

    /// Asks one endpoint: a second time when the connection or the token was an old one and proved stale.
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
            let error = match self.patiently(&connection, Box::pin(request(connection.clone()))).await {
                Err(waited) => return Err(EndpointError::Elsewhere(silence(waited))),
                Ok(Err(error)) => error,
                Ok(Ok(answer)) => {
                    connection.life.received();
                    if let Some(header) = answer.header {
                        let url = &self.endpoints[index].url;
                        if !self.history.accept(index, url, sent, header).map_err(EndpointError::Foreign)? {
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

    /// Waits for an answer over this connection, and else says how long it waited. When it is late, looks whether the
    /// connection lives, which no stream on it feels.
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
        match timeout(max_wait.saturating_sub(self.request_timeout), select(answer, silent)).await {
            Ok(Either::Left((answer, _))) => Ok(answer),
            Ok(Either::Right(_)) => Err(self.request_timeout),
            Err(_) => Err(max_wait),
        }
    }

    /// Looks whether a connection lives over which an answer is late.
    pub(super) fn check(&self, connection: &Connection) {
        connection.life.check(&self.thread, Doubt::Slow, connection.client(), self.request_timeout * 3 / 2);
    }

    /// How long a request may take: longer while all endpoints are slow but alive, since giving up and asking again would make
    /// them slower.
    pub(super) fn max_wait(&self) -> Duration {
        let slow = |endpoint: &Endpoint| endpoint.connected().is_some_and(|connection| connection.life.is_slow());
        if self.endpoints.iter().all(slow) { self.request_timeout * SLOW_FACTOR } else { self.request_timeout }
    }

    /// What a failure means for the other endpoints. When the connection broke, finds out whether TLS is the reason: the
    /// client's own words for that are "operation was canceled" or "broken pipe".
    async fn failure_at(&self, index: usize, error: &etcd_client::Error, limit: Instant) -> EndpointError {
        let endpoint = &self.endpoints[index];
        if classify(error) == Recovery::Broken && !describe(error).contains("tcp connect error") {
            let tls =
                self.tls.as_ref().and_then(|(_, last)| last.lock().unwrap_or_else(PoisonError::into_inner).clone());
            let found = timeout_at(limit, endpoint.diagnosis.find(&endpoint.url, tls.as_ref())).await;
            if let Ok(Some(reason)) = found {
                return EndpointError::Tls(reason);
            }
        }
        failure(error)
    }

    /// Lets go of a client, so that the next request there connects and authenticates anew. Streams that still run on its
    /// connection go on, unless it proves silent.
    pub(super) fn invalidate(&self, place: ConnectionId) {
        let mut slot = self.endpoints[place.endpoint].slot();
        if let Some(connection) = slot.take_if(|connection| connection.place == place) {
            connection.life.check(&self.thread, Doubt::Failed, connection.client(), self.request_timeout);
        }
    }

    /// Begins the next turn at another endpoint than this.
    pub(super) fn move_on(&self, place: ConnectionId) {
        let next = (place.endpoint + 1) % self.endpoints.len();
        // When it fails, somebody else has moved on already.
        let _ = self.current.compare_exchange(place.endpoint, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Lets go of a client, and begins the next turn at another endpoint.
    pub(super) fn demote(&self, place: ConnectionId) {
        self.invalidate(place);
        self.move_on(place);
    }

    /// Begins the next turn there, as the test wants it.
    #[cfg(test)]
    pub(super) fn begin_at(&self, index: usize) {
        self.current.store(index, Ordering::Relaxed);
    }

    /// Where the last request succeeded, for a test to see.
    #[cfg(test)]
    pub(super) fn begins_at(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Which client the endpoint has now, so that a test can call it into doubt.
    #[cfg(test)]
    pub(super) fn place_of(&self, index: usize) -> Option<ConnectionId> {
        self.endpoints[index].connected().map(|connection| connection.place)
    }

    /// The error of a stream that ran at this place.
    pub(super) fn stream_error(&self, place: ConnectionId, error: &etcd_client::Error) -> EtcdError {
        match failure(error) {
            EndpointError::Definite(kind, reason) => self.stream_failed(place, kind, reason),
            EndpointError::Elsewhere(reason) | EndpointError::Tls(reason) | EndpointError::Foreign(reason) => {
                self.stream_failed(place, EtcdErrorKind::Unreachable, reason)
            }
        }
    }

    /// The same, in our own words.
    pub(super) fn stream_failed(&self, place: ConnectionId, kind: EtcdErrorKind, reason: String) -> EtcdError {
        EtcdError::definite(kind, &self.endpoints[place.endpoint].url, reason)
    }
}

impl Endpoint {
    /// A slot is only ever replaced as a whole, so that a panic elsewhere cannot have left it half written.
    pub(super) fn slot(&self) -> MutexGuard<'_, Option<Connection>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connected(&self) -> Option<Connection> {
        self.slot().clone().filter(|connection| !connection.life.is_silent())
    }
}

/// What a failure at one endpoint means for the others.
fn failure(error: &etcd_client::Error) -> EndpointError {
    match classify(error) {
        Recovery::Definite(kind) => EndpointError::Definite(kind, describe(error)),
        // Here the token was new already.
        Recovery::StaleToken => EndpointError::Definite(EtcdErrorKind::Denied, describe(error)),
        Recovery::Elsewhere | Recovery::Broken => EndpointError::Elsewhere(describe(error)),
    }
}
