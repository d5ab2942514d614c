//! A server that has joined the mesh.

mod leaving;

use crate::{
    error::{Error, ErrorKind},
    ingress::{self, Ingress, OpenError},
    io::wall_clock,
    io::{
        etcd::Etcd,
        signal,
        tasks::{self, Name},
        timer,
    },
    logging,
    membership::watchdog::LivenessCheck,
    membership::{
        Agent, Command, End,
        status::{PeerEvent, PeerState, StatusPublisher},
    },
    server::{
        certificate_expiry,
        definition::{Definition, check_length},
        dispatch::Dispatcher,
        startup_check,
        state::ServerState,
    },
    sync::lock,
};
use futures::{
    FutureExt as _, Stream,
    channel::{mpsc, oneshot},
    future::{Either, select},
    pin_mut,
};
use palm_proto::{config::ValidConfig, types::record::Record};
use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use uuid::Uuid;

/// How long a server that is stopped while it joins, or told to hurry, waits for etcd to take back its lease.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(1);

/// How much longer than its drain leaving may take. Every wait in it has a bound of its own; this one holds even when no timer
/// fires any more.
const LEAVE_OVERHEAD: Duration = Duration::from_secs(10);

/// A server that has joined the mesh. It answers while [`Peer::serve`] runs.
///
/// Its place in etcd is kept by a thread of its own, whatever the executor does. Dropping it without serving to the end
/// takes the server out of the mesh, in the background.
pub struct Peer {
    core: Arc<ServerState>,
    endpoint: String,
    status: Arc<StatusPublisher>,
    commands: mpsc::UnboundedSender<Command>,
    engine: Mutex<Option<Engine>>,
    /// How many signals the process had received before this peer joined.
    signals: u64,
}

/// What serving needs, once.
struct Engine {
    door: Ingress,
    sender: ingress::Sender,
    receiver: ingress::Receiver,
    beats: mpsc::UnboundedReceiver<LivenessCheck>,
    end: oneshot::Receiver<End>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("uuid", &self.core.uuid).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Peer {
    /// Joins unless `shutdown` ends first: then what was done is undone, and there is no peer.
    pub(crate) async fn join(
        definition: Definition,
        options: ValidConfig,
        mut shutdown: impl Future + Unpin,
    ) -> Result<Option<Self>, Error> {
        let signals = signal::seen();
        startup_check::prepare()?;
        log::info!("server {} joins the mesh {:?} at {}", definition.name, options.prefix, options.etcd.join(","));
        let prepared = {
            let preparing = prepare(definition, options);
            pin_mut!(preparing);
            match select(preparing, &mut shutdown).await {
                Either::Left((prepared, _)) => prepared?,
                Either::Right(_) => return Ok(None),
            }
        };
        let Prepared { core, door, sender, receiver, record, etcd } = prepared;
        let endpoint = record.endpoint();
        core.relay.attach(etcd.clone());
        let status = Arc::new(StatusPublisher::new());
        let (commands, heard) = mpsc::unbounded();
        let (ask_beat, beats) = mpsc::unbounded();
        let (tell_joined, joined) = oneshot::channel();
        let (tell_end, end) = oneshot::channel();
        let living = live(etcd.clone(), Arc::clone(&core), record, Arc::clone(&status), heard, ask_beat, tell_joined);
        drop(etcd.spawn(Name::Peer, async move {
            // Nobody waits for the end of a peer that is not served.
            let _ = tell_end.send(living.await);
        }));
        match select(select(joined, core.supervisor.gave_up()), shutdown).await {
            Either::Left((Either::Left((joined, _)), _)) => {
                joined.unwrap_or_else(|_| Err(failed(&core, "its agent ended while joining")))?;
            }
            Either::Left((Either::Right((reason, _)), _)) => return Err(failed(&core, &reason)),
            Either::Right((_, joining)) => {
                // If nobody waits for the join any more, the agent removes what it put into etcd.
                drop((joining, commands));
                let undoing = async {
                    let _ = timer::timeout(GIVE_BACK_WITHIN, end).await;
                    drop((sender, receiver));
                    door.close().await;
                };
                pin_mut!(undoing);
                select(undoing, timer::last_resort(LEAVE_OVERHEAD)).await;
                return Ok(None);
            }
        }
        log::info!("server {} joined as {} at {endpoint}", core.name, core.uuid);
        let engine = Mutex::new(Some(Engine { door, sender, receiver, beats, end }));
        Ok(Some(Self { core, endpoint, status, commands, engine, signals }))
    }

    /// The identity of this instance in the mesh.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.core.uuid
    }

    /// Where others reach it: `tcp://host:port`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// How it is doing now.
    #[must_use]
    pub fn state(&self) -> PeerState {
        self.status.state()
    }

    /// What happens to it from now on. The stream ends when the peer has left the mesh or was removed from it. Events that
    /// nobody takes are kept, without bound.
    pub fn events(&self) -> impl Stream<Item = PeerEvent> + Send + Unpin + use<> {
        self.status.subscribe()
    }

    /// Runs the functions on the executor that polls this, until `shutdown` ends; then leaves in an orderly way: takes the
    /// server out of the mesh, finishes what it is doing (at most `drain`), and answers `leaving` to what still arrives.
    ///
    /// `serve(crate::signals()?)` ends at SIGTERM, SIGINT or SIGHUP, and a second SIGTERM or SIGINT ends the drain at once.
    /// Not cancel-safe: a dropped `serve` cannot be resumed, and the server leaves the mesh when the peer is dropped, without
    /// a drain.
    ///
    /// # Errors
    /// [`ErrorKind::Evicted`] when a person removed the server, [`ErrorKind::TaskFailed`] when tasks of the peer's own
    /// panicked three times within a minute, [`ErrorKind::AlreadyServing`] when it is served already or has
    /// left.
    pub async fn serve(&self, shutdown: impl Future) -> Result<(), Error> {
        let taken = lock(&self.engine).take();
        let Some(Engine { door, sender, mut receiver, mut beats, end }) = taken else {
            return Err(Error::new(ErrorKind::AlreadyServing, "this peer is served already, or has left"));
        };
        let mut serving = Dispatcher::new(Arc::clone(&self.core), sender);
        let ended = {
            let stop = self.stop(end, shutdown);
            pin_mut!(stop);
            let mut ended = Ok(());
            let mut stop = stop.map(|why| ended = why).fuse();
            let turning = tasks::caught(Name::Serving, serving.run(&mut receiver, &mut beats, &mut stop)).await;
            drop(stop);
            turning.map_err(|panic| failed(&self.core, &format!("the serving loop panicked: {panic}"))).and(ended)
        };
        // Boxed: callers hold this future, which need not be larger than the serving one.
        let finished = Box::pin(self.end(&ended, door, serving, receiver, beats)).await;
        ended.and(finished.map_err(|reason| failed(&self.core, &reason)))
    }

    /// Ends when serving is to end, with the reason.
    async fn stop(&self, end: oneshot::Receiver<End>, shutdown: impl Future) -> Result<(), Error> {
        pin_mut!(shutdown);
        // When it gives up, the agent ends as well: the reason comes first.
        match select(select(self.core.supervisor.gave_up(), end), shutdown).await {
            Either::Right(_) => Ok(()),
            Either::Left((Either::Left((reason, _)), _)) => Err(failed(&self.core, &reason)),
            Either::Left((Either::Right((Ok(End::Evicted), _)), _)) => {
                let message = format!("server {} was removed from the mesh by an administrator", self.core.uuid);
                Err(Error::new(ErrorKind::Evicted, message))
            }
            Either::Left((Either::Right(_), _)) => Err(failed(&self.core, "its agent ended")),
        }
    }
}

fn failed(core: &ServerState, reason: &str) -> Error {
    let message = format!("server {} cannot go on and must be started anew: {reason}", core.uuid);
    Error::new(ErrorKind::TaskFailed, message)
}

/// What joining needs, before anything is written to etcd.
struct Prepared {
    core: Arc<ServerState>,
    door: Ingress,
    sender: ingress::Sender,
    receiver: ingress::Receiver,
    record: Record,
    etcd: Etcd,
}

async fn prepare(definition: Definition, options: ValidConfig) -> Result<Prepared, Error> {
    let Definition { name, kind, names, functions } = definition;
    let address = SocketAddr::new(options.bind_address(), options.port);
    let files = crate::config::tls::read(&options).await?;
    let credentials = crate::config::tls::credentials(&options, files.as_ref(), Some(&options.ip))?;
    let core = Arc::new(ServerState::new(name, functions, options, logging::book(), credentials.clone()));
    if core.options.is_exposed() {
        log::warn!(
            "whoever reaches {} can call this server and read what is said to it: name --cacert, --cert and --key \
             (PALM_CACERT, PALM_CERT, PALM_KEY) to have TLS, or listen on 127.0.0.1",
            core.options.bind_address()
        );
    }
    let mut record = new_record(&core, kind, names);
    check_length(&record)?;
    let opened = Ingress::open(address, &core.options, Arc::clone(&core.tally), credentials, &core.supervisor).await;
    let (door, sender, receiver, bound) = opened.map_err(|error| cannot_listen(address, error))?;
    record.ports = vec![bound.port()];
    let etcd = crate::config::etcd::start("palm-agent", &core.options, files.as_ref())?;
    Ok(Prepared { core, door, sender, receiver, record, etcd })
}

fn cannot_listen(address: SocketAddr, error: OpenError) -> Error {
    match error {
        OpenError::Address(error) => {
            let message = format!("cannot listen at {address} (bind and port name another address)");
            Error::new(ErrorKind::Bind, message).caused(error)
        }
        OpenError::Directory(error) => Error::new(ErrorKind::Io, error.to_string()),
        OpenError::Other(error) => Error::new(ErrorKind::Io, "cannot prepare for connections").caused(error),
    }
}

async fn live(
    etcd: Etcd,
    core: Arc<ServerState>,
    record: Record,
    status: Arc<StatusPublisher>,
    commands: mpsc::UnboundedReceiver<Command>,
    beats: mpsc::UnboundedSender<LivenessCheck>,
    mut tx: oneshot::Sender<Result<(), Error>>,
) -> End {
    let _expiry = core.dialer.credentials().map(|credentials| {
        let watching = move || certificate_expiry::watch(Arc::clone(&credentials));
        etcd.keep(&core.supervisor, Name::CertificateExpiry, watching)
    });
    match Agent::join(etcd, core.context(), record, Arc::clone(&status), commands, beats, tx.cancellation()).await {
        Ok((agent, joined)) => {
            // The caller of `join` may have stopped waiting; then the peer is gone, and the agent leaves.
            let _ = tx.send(Ok(()));
            let end = agent.run(joined).await;
            status.end();
            end
        }
        Err(error) => {
            let _ = tx.send(Err(error));
            End::Left
        }
    }
}

/// The record of a server that does not listen yet.
fn new_record(core: &ServerState, kind: String, functions: Vec<String>) -> Record {
    Record {
        host: core.options.ip.clone(),
        pid: std::process::id(),
        when: wall_clock::timestamp(),
        leader: None,
        server: core.name.clone(),
        ports: Vec::new(),
        kind,
        functions,
        uuid: core.uuid,
        configured: false,
        unknown: serde_json::Map::new(),
    }
}
