//! One client an endpoint, and the turn that a request takes around them.
//!
//! The crate's own balancing goes on handing requests to members that are dead or frozen, so each client here knows
//! one endpoint only, and we choose.

use std::{
    future::Future,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, KvClient, TlsOptions, WatchClient};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::{Instant, timeout_at},
};

use super::{
    diagnosis::Diagnosis,
    error::{EtcdError, EtcdErrorKind, Verdict, describe, judge, silence},
    history::{Answered, History},
    settings::{EtcdSettings, TlsSource},
};
use crate::{decisions::etcd_history::EtcdHistory, ports::tls::EtcdTls};

/// A host that is down does not answer at all: known sooner than by the request's own limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often an open stream is tried with a ping. etcd closes the connection of who pings more often than its
/// `--grpc-keepalive-min-time`, 5 s unless set (seen: with pings every second each watch broke after 4 s); nor does it
/// bear pings when no stream is open, so there are none then.
const PING_PERIOD: Duration = Duration::from_secs(6);

/// How long the answer to a ping may take before the connection is given up.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection without a stream may be idle before the system checks that the other host is still there: pings
/// are sent over streams only.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The largest answer we take. The crate's 4 MiB would be too little for a list of a few thousand servers.
const MAX_ANSWER: usize = 256 << 20;

/// All endpoints, and which of them to ask first.
pub(super) struct Pool {
    pub(super) endpoints: Vec<Endpoint>,
    /// Where the last request succeeded.
    current: AtomicUsize,
    options: ConnectOptions,
    /// What TLS is made of, and what that was when it could last be told.
    tls: Option<(TlsSource, Mutex<Option<EtcdTls>>)>,
    user: Option<(String, String)>,
    pub(super) request_timeout: Duration,
    generations: AtomicU64,
    /// Held until the endpoints have said which cluster they belong to.
    pub(super) identifying: AsyncMutex<bool>,
    pub(super) history: History,
}

/// One endpoint and its client, once there is one.
pub(super) struct Endpoint {
    pub(super) url: String,
    slot: Mutex<Option<Slot>>,
    /// Held while connecting, so that a hundred waiting requests authenticate once.
    connecting: AsyncMutex<()>,
    diagnosis: Diagnosis,
}

/// A client that is in use.
struct Slot {
    connection: Connection,
    /// Dropped with the slot: all who hold a copy of the connection learn that it is no longer trusted.
    _trusted: watch::Sender<()>,
}

/// A client of one endpoint.
#[derive(Clone)]
pub(super) struct Connection {
    client: Client,
    /// Closed when somebody found the connection wanting.
    pub(super) trusted: watch::Receiver<()>,
    pub(super) place: Place,
}

/// Which client of which endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) endpoint: usize,
    generation: u64,
}

impl Connection {
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(super) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_ANSWER)
    }

    pub(super) fn watch(&self) -> WatchClient {
        self.client.watch_client().max_decoding_message_size(MAX_ANSWER)
    }
}

/// How one endpoint failed.
pub(super) enum Failure {
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
    pub(super) fn new(settings: EtcdSettings) -> Self {
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PING_PERIOD, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            .with_tcp_keepalive(TCP_KEEP_ALIVE)
            // A member that lost touch with the others would else serve a watch that is silent for ever.
            .with_require_leader(true);
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
        let history = EtcdHistory::new(endpoints.len(), settings.cluster_lost_after);
        Self {
            // A mesh that starts at once shall not fall upon one member.
            current: AtomicUsize::new(fastrand::usize(..endpoints.len().max(1))),
            endpoints,
            options,
            tls: settings.tls.map(|source| (source, Mutex::new(None))),
            user: settings.user,
            request_timeout: settings.request_timeout,
            generations: AtomicU64::new(0),
            identifying: AsyncMutex::new(false),
            history: History::new(history),
        }
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Asks the endpoints in turn, beginning where the last request succeeded, until one gives an answer, good or
    /// bad. Must run on etcd's thread.
    pub(super) async fn turn<T, F, Fut>(&self, request: F) -> Result<T, EtcdError>
    where
        F: Fn(Connection) -> Fut,
        Fut: Future<Output = Result<Answered<T>, etcd_client::Error>>,
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
                Err(Failure::Definite(kind, reason)) => {
                    return Err(EtcdError::definite(kind, url, self.with_user(kind, reason)));
                }
                Err(Failure::Elsewhere(reason)) => reasons.push((url.clone(), reason)),
                Err(Failure::Tls(reason)) => {
                    if kind == EtcdErrorKind::Unreachable {
                        kind = EtcdErrorKind::Tls;
                    }
                    reasons.push((url.clone(), reason));
                }
                Err(Failure::Foreign(reason)) => {
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
    async fn ask<T, F, Fut>(&self, index: usize, request: &F) -> Result<T, Failure>
    where
        F: Fn(Connection) -> Fut,
        Fut: Future<Output = Result<Answered<T>, etcd_client::Error>>,
    {
        let mut last = false;
        loop {
            let limit = Instant::now() + self.request_timeout;
            let silent = || Failure::Elsewhere(silence(self.request_timeout));
            let (connection, fresh) = match timeout_at(limit, self.connection(index)).await {
                Err(_) => return Err(silent()),
                Ok(Err(error)) => return Err(self.failure_at(index, &error, limit).await),
                Ok(Ok(connection)) => connection,
            };
            let place = connection.place;
            let sent = self.history.sent();
            let error = match timeout_at(limit, request(connection.clone())).await {
                Err(_) => {
                    self.distrust(place);
                    return Err(silent());
                }
                Ok(Err(error)) => error,
                Ok(Ok(answer)) => {
                    if let Some(header) = answer.header {
                        let url = &self.endpoints[index].url;
                        if !self.history.accept(index, url, sent, header).map_err(Failure::Foreign)? {
                            let reason = "it answered before its history went back";
                            return Err(Failure::Elsewhere(reason.to_owned()));
                        }
                    }
                    return Ok(answer.value);
                }
            };
            let verdict = judge(&error);
            if matches!(verdict, Verdict::Definite(_)) {
                self.check_cluster(&connection, limit).await?;
            }
            if matches!(verdict, Verdict::Broken | Verdict::StaleToken) {
                self.distrust(place);
                if !fresh && !last {
                    last = true;
                    continue;
                }
            }
            return Err(self.failure_at(index, &error, limit).await);
        }
    }

    /// What a failure means for the other endpoints. When the connection broke, finds out whether TLS is the reason: the
    /// client's own words for that are "operation was canceled" or "broken pipe".
    async fn failure_at(&self, index: usize, error: &etcd_client::Error, limit: Instant) -> Failure {
        let endpoint = &self.endpoints[index];
        if judge(error) == Verdict::Broken && !describe(error).contains("tcp connect error") {
            let tls =
                self.tls.as_ref().and_then(|(_, last)| last.lock().unwrap_or_else(PoisonError::into_inner).clone());
            let found = timeout_at(limit, endpoint.diagnosis.find(&endpoint.url, tls.as_ref())).await;
            if let Ok(Some(reason)) = found {
                return Failure::Tls(reason);
            }
        }
        failure(error)
    }

    /// The endpoint's client, and whether it is new.
    pub(super) async fn connection(&self, index: usize) -> Result<(Connection, bool), etcd_client::Error> {
        let endpoint = &self.endpoints[index];
        if let Some(connection) = endpoint.connected() {
            return Ok((connection, false));
        }
        let _connecting = endpoint.connecting.lock().await;
        if let Some(connection) = endpoint.connected() {
            return Ok((connection, false));
        }
        // Boxed: every request would have room for it.
        let client = Box::pin(self.connect(&endpoint.url)).await?;
        let (sender, trusted) = watch::channel(());
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let place = Place { endpoint: index, generation };
        let connection = Connection { client, trusted, place };
        *endpoint.slot() = Some(Slot { connection: connection.clone(), _trusted: sender });
        Ok((connection, true))
    }

    /// A new client, authenticated if there is a user. Without one nothing is sent yet.
    async fn connect(&self, url: &str) -> Result<Client, etcd_client::Error> {
        let plain = self.options_now();
        let Some((name, password)) = &self.user else {
            return Client::connect([url], Some(plain)).await;
        };
        let options = plain.clone().with_user(name, password);
        match Client::connect([url], Some(options)).await {
            // As etcd's own client does: a user may be configured before authentication is switched on.
            Err(error) if describe(&error).contains("authentication is not enabled") => {
                Client::connect([url], Some(plain)).await
            }
            result => result,
        }
    }

    /// The options, with the certificates of this moment.
    fn options_now(&self) -> ConnectOptions {
        let Some((source, last)) = &self.tls else { return self.options.clone() };
        // Replaced as a whole, so that a panic elsewhere cannot have left it half written.
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        match source() {
            Ok(tls) => *last = Some(tls),
            Err(error) => {
                if let Some(suppressed) = self.history.should_log("reading certificates".into()) {
                    log::warn!(
                        "the certificates for etcd cannot be read again, the old ones are used: {error}{suppressed}"
                    );
                }
            }
        }
        let Some(tls) = last.clone() else { return self.options.clone() };
        let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(tls.ca));
        if let Some((certificate, key)) = tls.identity {
            options = options.identity(Identity::from_pem(certificate, key));
        }
        self.options.clone().with_tls(options)
    }

    /// Lets go of a client, so that the next request there connects and authenticates anew. Streams that still run on
    /// its connection go on, but are told.
    pub(super) fn distrust(&self, place: Place) {
        let mut slot = self.endpoints[place.endpoint].slot();
        if slot.as_ref().is_some_and(|slot| slot.connection.place == place) {
            *slot = None;
        }
    }

    /// Lets go of a client, and begins the next turn at another endpoint.
    pub(super) fn avoid(&self, place: Place) {
        self.distrust(place);
        let next = (place.endpoint + 1) % self.endpoints.len();
        // When it fails, somebody else has moved on already.
        let _ = self.current.compare_exchange(place.endpoint, next, Ordering::Relaxed, Ordering::Relaxed);
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
    pub(super) fn place_of(&self, index: usize) -> Option<Place> {
        self.endpoints[index].connected().map(|connection| connection.place)
    }

    /// The error of a stream that ran at this place.
    pub(super) fn stream_error(&self, place: Place, error: &etcd_client::Error) -> EtcdError {
        match failure(error) {
            Failure::Definite(kind, reason) => self.stream_failed(place, kind, reason),
            Failure::Elsewhere(reason) | Failure::Tls(reason) | Failure::Foreign(reason) => {
                self.stream_failed(place, EtcdErrorKind::Unreachable, reason)
            }
        }
    }

    /// The same, in our own words.
    pub(super) fn stream_failed(&self, place: Place, kind: EtcdErrorKind, reason: String) -> EtcdError {
        EtcdError::definite(kind, &self.endpoints[place.endpoint].url, reason)
    }
}

impl Endpoint {
    /// A slot is only ever replaced as a whole, so that a panic elsewhere cannot have left it half written.
    fn slot(&self) -> MutexGuard<'_, Option<Slot>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected(&self) -> Option<Connection> {
        self.slot().as_ref().map(|slot| slot.connection.clone())
    }
}

/// What a failure at one endpoint means for the others.
fn failure(error: &etcd_client::Error) -> Failure {
    match judge(error) {
        Verdict::Definite(kind) => Failure::Definite(kind, describe(error)),
        // Here the token was new already.
        Verdict::StaleToken => Failure::Definite(EtcdErrorKind::Denied, describe(error)),
        Verdict::Elsewhere | Verdict::Broken => Failure::Elsewhere(describe(error)),
    }
}
