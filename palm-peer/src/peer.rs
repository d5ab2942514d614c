//! A server that has joined the mesh.

use crate::{
    Error, ErrorKind, Event, Options, State,
    drivers::{
        agent::{Agent, Command, End, announce::Announcer},
        door::{self, Door},
        lock::lock,
        serving::{Beat, Serving, core::Core, functions::Function},
    },
    facts::record::Record,
    logging,
    ports::{
        systemd::{self, Notice},
        timer,
    },
};
use chrono::Utc;
use futures::{
    FutureExt as _, Stream,
    channel::{mpsc, oneshot},
    future::{join, select},
    pin_mut,
};
use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a server that left goes on answering `leaving` at least, so that clients which have not heard yet go elsewhere.
const LINGER: Duration = Duration::from_millis(100);

/// A server that has joined the mesh. It answers while [`Peer::serve`] runs.
///
/// Its place in etcd is kept by a thread of its own, whatever the executor does. Dropping it without serving to the end
/// takes the server out of the mesh, in the background.
pub struct Peer {
    core: Arc<Core>,
    endpoint: String,
    announcer: Arc<Announcer>,
    commands: mpsc::UnboundedSender<Command>,
    engine: Mutex<Option<Engine>>,
}

/// What serving needs, once.
struct Engine {
    door: Door,
    sender: door::Sender,
    receiver: door::Receiver,
    beats: mpsc::UnboundedReceiver<Beat>,
    end: oneshot::Receiver<End>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("uuid", &self.core.uuid).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Peer {
    pub(crate) async fn join(
        name: String,
        kind: String,
        names: Vec<String>,
        functions: BTreeMap<String, Function>,
        options: Options,
    ) -> Result<Self, Error> {
        let address = SocketAddr::new(options.bind_address(), options.port);
        let credentials = crate::tls::credentials(&options, Some(&options.ip))?;
        let core = Arc::new(Core::new(name, functions, options, logging::book(), credentials.clone()));
        if core.options.is_exposed() {
            log::warn!(
                "whoever reaches {} can call this server and read what is said to it: name --cacert, --cert and --key \
                 (PALM_CACERT, PALM_CERT, PALM_KEY) to have TLS, or listen on 127.0.0.1",
                core.options.bind_address()
            );
        }
        let opened = Door::open(address, &core.options, Arc::clone(&core.tally), credentials).await;
        let (door, sender, receiver, bound) = opened.map_err(|error| {
            let words = format!("cannot listen at {address} (bind and port name another address)");
            Error::new(ErrorKind::Listen, words).caused(error)
        })?;
        let record = new_record(&core, kind, names, bound.port());
        let endpoint = record.endpoint();
        let etcd = crate::etcd::start("palm-agent", &core.options)?;
        core.relay.attach(etcd.clone());
        let announcer = Arc::new(Announcer::new());
        let (commands, heard) = mpsc::unbounded();
        let (ask_beat, beats) = mpsc::unbounded();
        let (tell_joined, joined) = oneshot::channel();
        let (tell_end, end) = oneshot::channel();
        let living =
            live(etcd.clone(), Arc::clone(&core), record, Arc::clone(&announcer), heard, ask_beat, tell_joined);
        drop(etcd.spawn(async move {
            // Nobody waits for the end of a peer that is not served.
            let _ = tell_end.send(living.await);
        }));
        joined.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::System, "the agent ended while joining")))?;
        log::info!("server {} joined as {} at {endpoint}", core.name, core.uuid);
        let engine = Mutex::new(Some(Engine { door, sender, receiver, beats, end }));
        Ok(Self { core, endpoint, announcer, commands, engine })
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
    pub fn state(&self) -> State {
        self.announcer.state()
    }

    /// What happens to it from now on. The stream ends when the peer has left the mesh or was removed from it. Events that
    /// nobody takes are kept, without bound.
    pub fn events(&self) -> impl Stream<Item = Event> + Send + Unpin + use<> {
        self.announcer.subscribe()
    }

    /// Runs the functions on the executor that polls this, until `shutdown` ends; then leaves in an orderly way: takes the
    /// server out of the mesh, finishes what it is doing (at most `drain`), and answers `leaving` to what still arrives.
    ///
    /// `serve(palm_peer::signals())` ends at SIGTERM or SIGINT. Not cancel-safe: a dropped `serve` cannot be resumed, and
    /// the server leaves the mesh when the peer is dropped, without a drain.
    ///
    /// # Errors
    /// [`ErrorKind::Evicted`] when a person removed the server, [`ErrorKind::NotServable`] when it is served already or has
    /// left.
    pub async fn serve(&self, shutdown: impl Future) -> Result<(), Error> {
        let taken = lock(&self.engine).take();
        let Some(Engine { door, sender, mut receiver, mut beats, end }) = taken else {
            return Err(Error::new(ErrorKind::NotServable, "this peer is served already, or has left"));
        };
        let mut serving = Serving::new(Arc::clone(&self.core), sender);
        let why = {
            let shutdown = shutdown.map(|_| None);
            pin_mut!(shutdown);
            let mut why = None;
            let stop = select(end.map(Some), shutdown);
            let mut stop = stop.map(|stop| why = stop.factor_first().0).fuse();
            serving.run(&mut receiver, &mut beats, &mut stop).await;
            drop(stop);
            why
        };
        let ended = match why {
            Some(Ok(End::Evicted)) => {
                self.core.leaving.store(true, Ordering::Release);
                self.drain(&door, &mut serving, &mut receiver, &mut beats).await;
                let words = format!("server {} was removed from the mesh by an administrator", self.core.uuid);
                Err(Error::new(ErrorKind::Evicted, words))
            }
            Some(_) => Err(Error::new(ErrorKind::System, "the peer's agent ended")),
            None => {
                self.leave(&door, &mut serving, &mut receiver, &mut beats).await;
                Ok(())
            }
        };
        // In this order: ZeroMQ takes its socket out of the folder, then the folder goes.
        drop((serving, receiver));
        door.close().await;
        ended
    }

    async fn leave(
        &self,
        door: &Door,
        serving: &mut Serving,
        receiver: &mut door::Receiver,
        beats: &mut mpsc::UnboundedReceiver<Beat>,
    ) {
        systemd::notify(Notice::Stopping);
        log::info!("leaving the mesh");
        self.command(Command::Leave, serving, receiver, beats).await;
        self.core.leaving.store(true, Ordering::Release);
        if serving.pending() > 0 {
            log::info!("finishing {} requests, for {:?} at most", serving.pending(), self.core.options.drain);
        }
        self.drain(door, serving, receiver, beats).await;
        self.command(Command::Finish, serving, receiver, beats).await;
        log::info!("left the mesh");
    }

    /// Finishes what was taken in, and sees its answers off.
    async fn drain(
        &self,
        door: &Door,
        serving: &mut Serving,
        receiver: &mut door::Receiver,
        beats: &mut mpsc::UnboundedReceiver<Beat>,
    ) {
        let most = self.core.options.drain;
        let end = Instant::now() + most.max(LINGER);
        serving.drain(receiver, beats, LINGER, most).await;
        if serving.pending() > 0 {
            log::warn!("{} requests were not finished within {most:?}", serving.pending());
        }
        serving.say_goodbye();
        // What they sent before they heard it, be it that they were frozen, still finds somebody who passes it on.
        serving.drain(receiver, beats, Duration::ZERO, end.saturating_duration_since(Instant::now())).await;
        if serving.parting() > 0 {
            log::warn!("{} clients did not say goodbye within {most:?}", serving.parting());
        }
        let settled = join(door.settled(), self.core.relay.flushed());
        let settled = timer::timeout_at(end, settled).map(|settled| {
            if settled.is_err() {
                log::warn!("some clients or servers did not take what was sent to them within {most:?}");
            }
        });
        pin_mut!(settled);
        serving.run(receiver, beats, &mut settled.fuse()).await;
    }

    /// Tells the agent something, and goes on serving until it is done.
    async fn command(
        &self,
        command: impl FnOnce(oneshot::Sender<()>) -> Command,
        serving: &mut Serving,
        receiver: &mut door::Receiver,
        beats: &mut mpsc::UnboundedReceiver<Beat>,
    ) {
        let (tell, done) = oneshot::channel();
        if self.commands.unbounded_send(command(tell)).is_ok() {
            // An agent that has ended has nothing left to do.
            serving.run(receiver, beats, &mut done.map(drop).fuse()).await;
        }
    }
}

async fn live(
    etcd: crate::ports::etcd::Etcd,
    core: Arc<Core>,
    record: Record,
    announcer: Arc<Announcer>,
    commands: mpsc::UnboundedReceiver<Command>,
    beats: mpsc::UnboundedSender<Beat>,
    tell: oneshot::Sender<Result<(), Error>>,
) -> End {
    match Agent::join(etcd, core, record, Arc::clone(&announcer), commands, beats).await {
        Ok((agent, joined)) => {
            // Whoever asked to join may have stopped waiting; then the peer is gone, and the agent leaves.
            let _ = tell.send(Ok(()));
            let end = agent.run(joined).await;
            announcer.end();
            end
        }
        Err(error) => {
            let _ = tell.send(Err(error));
            End::Left
        }
    }
}

fn new_record(core: &Core, kind: String, functions: Vec<String>, port: u16) -> Record {
    Record {
        host: core.options.ip.clone(),
        pid: std::process::id(),
        when: Utc::now().into(),
        leader: None,
        server: core.name.clone(),
        ports: vec![port],
        kind,
        functions,
        uuid: core.uuid,
        configured: false,
        unknown: serde_json::Map::new(),
    }
}
