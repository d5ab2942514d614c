//! A server that has joined the mesh.

use crate::{
    error::{Error, ErrorKind},
    ingress::{self, Ingress, OpenError},
    io::wall_clock,
    io::{etcd::Etcd, signal, tasks::Name, timer},
    logging,
    membership::{
        self, AgentHandle,
        status::{PeerEvent, PeerState},
    },
    server::{
        certificate_expiry,
        definition::{Definition, Profile, check_record},
        dispatch::Dispatcher,
        engine::{Engine, GIVE_BACK_WITHIN, LEAVE_OVERHEAD, failed},
        metrics::listener::MetricsListener,
        startup_check,
        state::ServerState,
    },
    sync::lock,
};
use futures::{
    Stream,
    future::{Either, select},
};
use palm_proto::{config::ValidConfig, types::record::Record};
use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex},
};
use uuid::Uuid;

/// A server that has joined the mesh. It answers while [`Peer::serve`] runs.
///
/// A dedicated thread keeps its registration in etcd, even when the executor is blocked. Dropping
/// it without serving to the end takes the server out of the mesh, in the background.
///
/// ```no_run
/// # async fn example() -> Result<(), palm_peer::Error> {
/// use palm_peer::{Config, FunctionError, Message, Server};
///
/// let server = Server::new("echo").function("echo", async |m: Message| Ok::<_, FunctionError>(m.into_payload()));
/// let peer = server.join(Config::from_env()?).await?;
/// println!("{} listens at {}", peer.uuid(), peer.endpoint());
/// peer.serve(palm_peer::signals()?).await
/// # }
/// ```
pub struct Peer {
    uuid: Uuid,
    endpoint: String,
    metrics_address: Option<SocketAddr>,
    /// Keeps the server in the mesh until the peer is dropped.
    agent: AgentHandle,
    /// The serving side, until it is served.
    engine: Mutex<Option<Engine>>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("uuid", &self.uuid)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Peer {
    /// Joins unless `shutdown` ends first: then joining is undone, and there is no peer.
    pub(crate) async fn join(
        definition: Definition,
        config: ValidConfig,
        mut shutdown: impl Future + Unpin,
    ) -> Result<Option<Self>, Error> {
        let signals = signal::seen();
        startup_check::prepare()?;
        log::info!(
            "server {} joins the mesh {:?} at {}",
            definition.profile.name,
            config.prefix,
            config.etcd.join(",")
        );
        let prepared = match select(pin!(prepare(definition, config)), &mut shutdown).await {
            Either::Left((prepared, _)) => prepared?,
            Either::Right(_) => return Ok(None),
        };
        let Prepared {
            state,
            ingress,
            sender,
            receiver,
            record,
            etcd,
            metrics,
        } = prepared;
        let metrics_address = metrics.as_ref().map(MetricsListener::address);
        let endpoint = record.endpoint();
        state.relay.attach(etcd.clone());
        let certificate_expiry = state.dialer.credentials().map(|credentials| {
            let watching = move || certificate_expiry::watch(Arc::clone(&credentials));
            etcd.keep(&state.supervisor, Name::CertificateExpiry, watching)
        });
        let (dispatcher, liveness) = Dispatcher::new(Arc::clone(&state), sender, receiver);
        let (agent, joined) = membership::spawn(etcd, state.context(), record, liveness);
        match select(select(joined, state.supervisor.gave_up()), shutdown).await {
            Either::Left((Either::Left((joined, _)), _)) => {
                joined.unwrap_or_else(|_| Err(failed(&state, "its agent ended while joining")))?;
            }
            Either::Left((Either::Right((reason, _)), _)) => return Err(failed(&state, &reason)),
            Either::Right((_, joining)) => {
                let exited = agent.exited();
                // If the join was dropped, the agent removes what it put into etcd.
                drop((joining, agent));
                let undoing = async {
                    let _ = timer::timeout(GIVE_BACK_WITHIN, exited).await;
                    drop(dispatcher);
                    ingress.close().await;
                };
                select(pin!(undoing), timer::last_resort(LEAVE_OVERHEAD)).await;
                return Ok(None);
            }
        }
        log::info!(
            "server {} joined as {} at {endpoint}",
            state.name,
            state.uuid
        );
        let (uuid, handle) = (state.uuid, agent.clone());
        let engine = Engine {
            state,
            ingress,
            dispatcher,
            agent,
            _metrics: metrics,
            _certificate_expiry: certificate_expiry,
            signals,
        };
        Ok(Some(Self {
            uuid,
            endpoint,
            metrics_address,
            agent: handle,
            engine: Mutex::new(Some(engine)),
        }))
    }

    /// Returns the uuid of this instance in the mesh.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Returns its endpoint: `tcp://host:port`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the address at which it serves its metrics over HTTP, if the setting `metrics` says
    /// so; with the port that the system has chosen for port 0.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Returns its state now. To wait for a state, use [`Peer::watch`].
    #[must_use]
    pub fn state(&self) -> PeerState {
        self.agent.status().state()
    }

    /// Returns a stream of its state: the one now, and the latest one whenever it has changed.
    /// States that nobody takes in time are skipped, so a slow reader sees fewer of them, but never
    /// an old one. The stream ends, after the last state, when the peer has left the mesh or was
    /// removed from it.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), palm_peer::Error> {
    /// use futures::StreamExt;
    /// use palm_peer::{Config, Server};
    ///
    /// let peer = Server::new("text").join(Config::from_env()?).await?;
    /// let mut states = peer.watch();
    /// let watching = async move {
    ///     while let Some(state) = states.next().await {
    ///         println!("leading: {}, in touch with etcd: {}", state.leading, state.attached);
    ///     }
    /// };
    /// futures::join!(peer.serve(palm_peer::signals()?), watching).0
    /// # }
    /// ```
    pub fn watch(&self) -> impl Stream<Item = PeerState> + Send + Unpin + use<> {
        self.agent.status().watch()
    }

    /// Returns a stream of what happens to it from now on. The stream ends when the peer has left
    /// the mesh or was removed from it. Of events that nobody takes, the latest 64 are kept; for
    /// the state alone, [`Peer::watch`] is simpler.
    ///
    /// ```no_run
    /// # async fn example(peer: &palm_peer::Peer) {
    /// use futures::StreamExt;
    /// use palm_peer::PeerEvent;
    ///
    /// let mut events = peer.events();
    /// while let Some(event) = events.next().await {
    ///     if event == PeerEvent::Elected {
    ///         println!("this server leads the mesh");
    ///     }
    /// }
    /// # }
    /// ```
    pub fn events(&self) -> impl Stream<Item = PeerEvent> + Send + Unpin + use<> {
        self.agent.status().subscribe()
    }

    /// Sets whether clients may call the server, for as long as it takes: for maintenance, while it
    /// warms up, or while something that it needs is away. At once, also while etcd cannot be
    /// reached: then the mesh learns it as soon as it can ([`PeerState::ready`]).
    ///
    /// A server that is not ready stays in the mesh, and may lead it; it is probed as before, and
    /// `palm-cli status` shows it. Clients do not find it any more, neither by its name nor by its
    /// uuid, but requests that run, wait or still arrive are answered, and so are messages of jobs.
    /// It stays so, even if it registers again. When it is ready again, the leader checks and
    /// publishes it as it does a new server. To join without being ready, use
    /// [`Server::ready`](crate::Server::ready).
    ///
    /// ```no_run
    /// # async fn example(peer: palm_peer::Peer) -> Result<(), palm_peer::Error> {
    /// let serving = peer.serve(palm_peer::signals()?);
    /// let maintenance = async {
    ///     peer.set_ready(false);
    ///     // Rebuild the index. Then:
    ///     peer.set_ready(true);
    /// };
    /// futures::join!(serving, maintenance).0
    /// # }
    /// ```
    pub fn set_ready(&self, ready: bool) {
        self.agent.set_ready(ready);
    }

    /// Serves on the executor that polls this ([`Server::spawn_with`](crate::Server::spawn_with) says
    /// where functions run), until `shutdown` ends; then shuts down
    /// gracefully: takes the server out of the mesh, drains (at most for `drain`), and answers
    /// `leaving` to requests that still arrive.
    ///
    /// `peer.serve(palm_peer::signals()?)` ends at SIGTERM, SIGINT or SIGHUP, and a second SIGTERM
    /// or SIGINT ends the drain at once. Not cancel-safe: a dropped `serve` cannot be resumed, and
    /// the server leaves the mesh when the peer is dropped, without a drain.
    ///
    /// # Errors
    /// [`ErrorKind::Evicted`] when an administrator removed the server, [`ErrorKind::TaskFailed`]
    /// when the library's tasks panicked three times within a minute, [`ErrorKind::AlreadyServing`]
    /// when it is served already or has left.
    pub async fn serve(&self, shutdown: impl Future) -> Result<(), Error> {
        let engine = lock(&self.engine).take();
        let engine = engine.ok_or_else(|| {
            Error::new(
                ErrorKind::AlreadyServing,
                "this peer is served already, or has left",
            )
        })?;
        engine.serve(shutdown).await
    }
}

/// The parts that joining needs, before anything is written to etcd.
struct Prepared {
    state: Arc<ServerState>,
    ingress: Ingress,
    sender: ingress::Sender,
    receiver: ingress::Receiver,
    record: Record,
    etcd: Etcd,
    metrics: Option<MetricsListener>,
}

async fn prepare(definition: Definition, config: ValidConfig) -> Result<Prepared, Error> {
    #[cfg(feature = "bench")]
    let bypass = definition.without_ingress;
    let Definition {
        profile, functions, ..
    } = definition;
    let address = SocketAddr::new(config.bind_address(), config.port);
    let files = crate::config::tls::read(&config).await?;
    let credentials = crate::config::tls::credentials(&config, files.as_ref(), Some(&config.ip))?;
    let state = Arc::new(ServerState::new(
        profile.name.clone(),
        functions,
        config,
        logging::book(),
        credentials.clone(),
    ));
    if state.config.is_exposed() {
        log::warn!(
            "anyone who can reach {} can call this server and read its traffic: set --cacert, --cert and --key \
             (PALM_CACERT, PALM_CERT, PALM_KEY) to have TLS, or listen on 127.0.0.1",
            state.config.bind_address()
        );
    }
    let mut record = new_record(&state, profile);
    check_record(&record)?;
    let opening = Ingress::open(
        address,
        &state.config,
        Arc::clone(&state.metrics),
        credentials,
        &state.supervisor,
    );
    #[cfg(feature = "bench")]
    let opening = async {
        if bypass {
            Ingress::bypass(address).await
        } else {
            opening.await
        }
    };
    let opened = opening.await;
    let (ingress, sender, receiver, bound) =
        opened.map_err(|error| cannot_listen(address, error))?;
    record.ports = vec![bound.port()];
    let metrics = open_metrics(&state)?;
    let etcd = crate::config::etcd::start("palm-agent", &state.config, files.as_ref())?;
    Ok(Prepared {
        state,
        ingress,
        sender,
        receiver,
        record,
        etcd,
        metrics,
    })
}

/// Opens the listener for metrics, if one is wanted.
fn open_metrics(state: &Arc<ServerState>) -> Result<Option<MetricsListener>, Error> {
    let open = |address| {
        MetricsListener::open(address, state).map_err(|error| {
            let message = format!(
                "cannot serve metrics at {address} (set metrics to another address; port 0 is a free one)"
            );
            Error::new(ErrorKind::Bind, message).caused(error)
        })
    };
    state.config.metrics.map(open).transpose()
}

fn cannot_listen(address: SocketAddr, error: OpenError) -> Error {
    match error {
        OpenError::Address(error) => {
            let message =
                format!("cannot listen on {address} (set bind or port to choose another address)");
            Error::new(ErrorKind::Bind, message).caused(error)
        }
        OpenError::Directory(error) => Error::new(ErrorKind::Io, error.to_string()),
        OpenError::Other(error) => {
            Error::new(ErrorKind::Io, "cannot prepare for connections").caused(error)
        }
    }
}

/// Returns the record of a server that does not listen yet.
pub(super) fn new_record(state: &ServerState, profile: Profile) -> Record {
    let mut record = Record::new(state.uuid, &state.name, wall_clock::timestamp());
    record.host.clone_from(&state.config.ip);
    record.pid = std::process::id();
    record.kind = profile.kind;
    record.functions = profile.names;
    if let Some(version) = profile.version {
        record.set_version(&version);
    }
    if !state.config.zone.is_empty() {
        record.set_zone(&state.config.zone);
    }
    let mut tags = profile.tags;
    tags.extend(state.config.tags.iter().cloned());
    if !tags.is_empty() {
        record.set_tags(&tags);
    }
    record.set_ready(profile.ready);
    record
}
