//! What the serving loop, the agent and the public face share about one server.

use super::{
    definition::{FunctionOptions, FunctionSpec, Functions},
    function_stats::FunctionStats,
    relay::Relay,
    spawner::Spawner,
};
use crate::{
    client::dialer::Dialer,
    ingress::metrics::IngressMetrics,
    io::{tasks::Supervisor, tls::Credentials, wall_clock},
    membership::{MembershipMetrics, PeerContext, status::StatusPublisher},
    server::message::Function,
    sync::{Counter, lock},
};
use log::Level;
use palm_proto::{
    config::ValidConfig,
    limits::{fair_queue::Amount, run_queue::Lane},
    log_buffer::LogBuffer,
    log_history::{LogPage, LogQuery},
    store::Store,
    types::{
        message::{CallErrorKind, CallFailure, Request},
        names,
        timestamp::Timestamp,
    },
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How many of the latest durations the quantiles of `_ping` are taken from.
const SAMPLE: usize = 1024;

/// A function, and what is counted about it.
#[derive(Clone)]
pub(crate) struct CountedFunction {
    pub function: Function,
    pub options: FunctionOptions,
    /// Its lane in the queue.
    pub lane: Lane,
    pub stats: Arc<FunctionStats>,
}

impl CountedFunction {
    fn new(name: String, function: FunctionSpec, lane: Lane) -> Self {
        let stats = Arc::new(FunctionStats::new(name));
        Self {
            function: function.call,
            options: function.options,
            lane,
            stats,
        }
    }
}

impl CountedFunction {
    /// Returns its counters as `_ping` shows them.
    fn to_json(&self) -> Value {
        let mut counters = self.stats.to_json();
        counters["limit"] = self.options.limit.into();
        counters
    }
}

/// Gives each function its counters, and its lane in the queue.
fn counted(functions: BTreeMap<String, FunctionSpec>) -> BTreeMap<String, CountedFunction> {
    let mut limited = 0..;
    let functions = functions.into_iter().map(|(name, function)| {
        let number = function.options.limit.and_then(|_| limited.next());
        let lane = number.map_or_else(Lane::default, Lane::of_limit);
        let counted = CountedFunction::new(name.clone(), function, lane);
        (name, counted)
    });
    functions.collect()
}

/// One server's identity, functions, store, log and counters.
pub(crate) struct ServerState {
    /// The server's uuid.
    pub uuid: Uuid,
    /// The server's name.
    pub name: String,
    /// The functions of the server's author.
    pub functions: BTreeMap<String, CountedFunction>,
    /// Where functions run that wait.
    pub spawner: Spawner,
    /// The configuration.
    pub config: ValidConfig,
    /// Opens the server's links to others.
    pub dialer: Dialer,
    /// The links to other servers, over which messages are forwarded.
    pub relay: Arc<Relay>,
    /// Set when the server has left the mesh and takes no more work.
    pub leaving: AtomicBool,
    /// What the ingress counts.
    pub metrics: Arc<IngressMetrics>,
    /// What the agent counts.
    pub membership: Arc<MembershipMetrics>,
    /// The peer's status, which the agent publishes.
    pub status: Arc<StatusPublisher>,
    /// Restarts the server's tasks when they panic.
    pub supervisor: Supervisor,
    /// When it was created, by the wall clock.
    pub created: Timestamp,
    started: Instant,
    store: Mutex<Store>,
    log: Arc<Mutex<LogBuffer>>,
    requests: AtomicU64,
    errors: [Counter; CallErrorKind::ALL.len()],
    in_flight: AtomicUsize,
    queued: AtomicUsize,
    queued_bytes: AtomicUsize,
    running_bytes: AtomicUsize,
    durations: Mutex<VecDeque<Duration>>,
}

impl ServerState {
    /// A server that has served nothing yet.
    pub(crate) fn new(
        name: String,
        functions: Functions,
        config: ValidConfig,
        log: Arc<Mutex<LogBuffer>>,
        credentials: Option<Arc<Credentials>>,
    ) -> Self {
        let uuid = Uuid::new_v4();
        let dialer = Dialer::new(uuid, &config, credentials);
        let supervisor = Supervisor::attended();
        Self {
            uuid,
            relay: Arc::new(Relay::new(
                dialer.clone(),
                config.clone(),
                supervisor.clone(),
            )),
            dialer,
            name,
            functions: counted(functions.by_name),
            spawner: functions.spawner,
            store: Mutex::new(Store::new(config.max_store)),
            config,
            leaving: AtomicBool::new(false),
            metrics: Arc::default(),
            membership: Arc::default(),
            status: Arc::new(StatusPublisher::new()),
            supervisor,
            created: wall_clock::timestamp(),
            started: Instant::now(),
            log,
            requests: AtomicU64::new(0),
            errors: Default::default(),
            in_flight: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            running_bytes: AtomicUsize::new(0),
            durations: Mutex::default(),
        }
    }

    /// Returns the limits of functions, in the order of their lanes.
    pub(crate) fn function_limits(&self) -> Vec<usize> {
        let functions = self.functions.values();
        functions
            .filter_map(|function| function.options.limit)
            .collect()
    }

    /// What the peer inside of the server needs to know.
    pub(crate) fn context(&self) -> PeerContext {
        PeerContext {
            uuid: self.uuid,
            config: self.config.clone(),
            dialer: self.dialer.clone(),
            supervisor: self.supervisor.clone(),
            status: Arc::clone(&self.status),
            metrics: Arc::clone(&self.membership),
        }
    }

    /// The name of the function that is meant, if the request is meant for this server.
    pub(crate) fn function_meant<'a>(&self, request: &'a Request) -> Result<&'a str, CallFailure> {
        let target = &request.pipeline[request.stage];
        let (server, function) = names::split_target(target).ok_or_else(|| {
            CallFailure::new(
                CallErrorKind::BadMessage,
                format!("{target:?} is not of the form server.function"),
            )
        })?;
        let routed = request
            .route
            .get(request.stage)
            .is_none_or(|uuid| *uuid == self.uuid);
        // A uuid can be written in several ways, and clients that found it in one may
        // send it in another.
        let named = server == self.name || server.parse() == Ok(self.uuid);
        if !routed || !named {
            let text = format!("this is {} {}, not {target}", self.name, self.uuid);
            return Err(CallFailure::new(CallErrorKind::WrongServer, text));
        }
        Ok(function)
    }

    /// The error of a request for a function that there is not.
    pub(crate) fn no_such_function(&self, name: &str) -> CallFailure {
        let functions = self.functions.keys().map(String::as_str);
        let known: Vec<_> = functions.chain(names::BUILT_IN).collect();
        let text = format!(
            "{} has no function {name}, only {}",
            self.name,
            known.join(", ")
        );
        CallFailure::new(CallErrorKind::NoSuchFunction, text)
    }

    /// The server's store.
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// The answer to `_log_query`.
    pub(crate) fn take_log(&self, level: Level) -> String {
        lock(&self.log).take(self.uuid, level)
    }

    /// The answer to a `_log_query` with a cursor.
    pub(crate) fn log_page(&self, query: &LogQuery) -> LogPage {
        lock(&self.log).history.page(query)
    }

    /// Counts a function that starts.
    pub(crate) fn began(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a function that ended.
    pub(crate) fn ended(&self, took: Duration) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let mut durations = lock(&self.durations);
        if durations.len() == SAMPLE {
            durations.pop_front();
        }
        durations.push_back(took);
    }

    /// Counts an error that was answered.
    pub(crate) fn failed(&self, kind: CallErrorKind) {
        self.errors[kind as usize].increment();
    }

    /// Returns how many errors were answered, by kind.
    pub(crate) fn errors(&self) -> impl Iterator<Item = (CallErrorKind, u64)> {
        let kinds = CallErrorKind::ALL.iter().zip(&self.errors);
        kinds.map(|(kind, count)| (*kind, count.get()))
    }

    /// So much waits for others to end.
    pub(crate) fn set_queued(&self, amount: Amount) {
        self.queued.store(amount.items, Ordering::Relaxed);
        self.queued_bytes.store(amount.bytes, Ordering::Relaxed);
    }

    /// Returns how much waits for others to end.
    pub(crate) fn queued(&self) -> Amount {
        Amount {
            items: self.queued.load(Ordering::Relaxed),
            bytes: self.queued_bytes.load(Ordering::Relaxed),
        }
    }

    /// The functions that run have been given so many bytes.
    pub(crate) fn set_running_bytes(&self, bytes: usize) {
        self.running_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Returns how many bytes the functions that run have been given.
    pub(crate) fn running_bytes(&self) -> usize {
        self.running_bytes.load(Ordering::Relaxed)
    }

    /// How many functions run.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The answer to `_ping`.
    pub(crate) fn ping(&self) -> String {
        let mut durations: Vec<_> = lock(&self.durations).iter().copied().collect();
        durations.sort_unstable();
        let quantile = |percent: usize| {
            durations
                .get(durations.len() * percent / 100)
                .map(Duration::as_micros)
        };
        let functions: BTreeMap<_, _> = self
            .functions
            .iter()
            .map(|(name, function)| (name, function.to_json()))
            .collect();
        json!({
            "uuid": self.uuid,
            "server": self.name,
            "uptime": self.started.elapsed().as_secs_f64(),
            "requests": self.requests.load(Ordering::Relaxed),
            "errors": self.errors().map(|(_, count)| count).sum::<u64>(),
            "in_flight": self.in_flight(),
            "queued": self.queued().items,
            "p50_us": quantile(50),
            "p99_us": quantile(99),
            "connections": self.metrics.connections(),
            "entered": self.metrics.entries(),
            "refused": self.metrics.refused(),
            "pauses": self.metrics.pauses(),
            "panicked": self.metrics.panics(),
            "functions": functions,
        })
        .to_string()
    }
}
