//! The peer's agent: lease, registration, election and the leader's duties, on etcd's thread.

mod campaign;
mod joining;
mod lease_keeper;
mod own_lease;
pub(crate) mod registration;
mod session;
mod standing;
pub(crate) mod status;
pub(crate) mod watchdog;

use self::{
    lease_keeper::LeaseNews,
    own_lease::OwnLease,
    registration::{RegisterError, Registrar},
    status::{PeerEvent, StatusPublisher},
    watchdog::LivenessCheck,
};
use crate::{
    client::dialer::Dialer,
    io::{
        etcd::{AbortOnDrop, Change, EtcdErrorKind},
        tasks::{self, Name, Supervisor},
        timer,
    },
    leader::SharedClock,
    sync::lock,
};
use futures::{
    StreamExt as _,
    channel::{mpsc, oneshot},
};
use palm_proto::{
    backoff::full_jitter,
    config::ValidConfig,
    election::{self, Candidate, Election, Resignations},
    removal::{LastWritten, RemovalCause},
    types::{ids::LeaseId, record::Record},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long leaving may wait for etcd; after that the lease expires by itself.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

/// What the serving side asks of the agent.
#[derive(Debug)]
pub(crate) enum Command {
    /// Take the server out of the mesh; answered when it is, or when etcd did not do it in time.
    Leave(oneshot::Sender<()>),
    /// All is answered: give the lease back and end.
    Finish(oneshot::Sender<()>),
}

/// How a peer's life in the mesh ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It left.
    Left,
    /// A person removed it.
    Evicted,
    /// Its agent panicked too often.
    Failed,
}

/// What the agent hears from its own tasks.
#[derive(Debug)]
enum Input {
    Lease(LeaseNews),
    Own(Change),
    RemovalCause(RemovalCause),
    /// etcd went back to an earlier revision, or another cluster took its place.
    NewHistory,
    /// The serving loop turns again after the registry found the server mute.
    Responsive,
    Registered(Result<LastWritten, RegisterError>),
    /// After a task failed: the lead is given up, and enough time has passed to stand again.
    Resigned,
    /// The duties of this turn say that others reach these servers, which this leader does not.
    Resign(u64, Vec<Uuid>),
    /// The watch on the own record began anew, and the record is not there.
    RecordMissing,
    /// What a task of the election found, and for which of its turns.
    Election(u64, election::Event),
}

/// Who the peer is, and what it reaches others with.
#[derive(Clone)]
pub(crate) struct PeerContext {
    /// The server's uuid.
    pub uuid: Uuid,
    /// What was set.
    pub options: ValidConfig,
    /// Opens the links to other peers.
    pub dialer: Dialer,
    /// Starts the peer's tasks anew when they panic.
    pub supervisor: Supervisor,
}

/// One peer's agent.
pub(crate) struct Agent {
    registrar: Registrar,
    context: PeerContext,
    status: Arc<StatusPublisher>,
    commands: mpsc::UnboundedReceiver<Command>,
    beats: mpsc::UnboundedSender<LivenessCheck>,
}

/// A lease, and all that depends on it.
struct Session {
    lease: LeaseId,
    clock: SharedClock,
    /// When the own record was last written, as far as is known.
    written: LastWritten,
    election: Election,
    /// Whether the peer is to register before it stands again, because etcd's history is a new one.
    returning: bool,
    /// In a row.
    failed_registrations: u32,
    /// Whom this peer followed last: the leader before it, once it leads.
    followed: Option<Candidate>,
    /// Counts what the election decided; what tasks of an earlier turn find is stale.
    turn: u64,
    resignations: Resignations,
    known: campaign::KnownEndpoints,
    tx: mpsc::UnboundedSender<Input>,
    inputs: mpsc::UnboundedReceiver<Input>,
    leaving: bool,
    supervisor: Supervisor,
    tasks: Vec<AbortOnDrop<()>>,
    election_tasks: Vec<AbortOnDrop<()>>,
}

impl Agent {
    /// Registers on a lease, which the next attempt goes on with if this one fails.
    async fn attach(&self, own: &mut OwnLease, known: Option<LastWritten>) -> Result<Registration, RegisterError> {
        let (lease, clock) = own.hold().await?;
        let registered = self.registrar.register(lease, known).await;
        if matches!(&registered, Err(RegisterError::Etcd(error)) if error.kind() == EtcdErrorKind::LeaseGone) {
            own.forget();
        }
        Ok(Registration { lease, clock, written: registered? })
    }

    /// Lives in the mesh until it leaves or is evicted, for as long as it takes.
    pub(crate) async fn run(mut self, first: Registration) -> End {
        let (supervisor, beats) = (self.context.supervisor.clone(), self.beats.clone());
        let keeping = move || watchdog::keep(beats.clone());
        let _vigil = self.registrar.etcd.keep(&supervisor, Name::Watchdog, keeping);
        let mut failures = supervisor.failures();
        let mut joined = first;
        loop {
            let (lease, known) = (joined.lease, joined.written);
            let written = match tasks::caught(Name::Agent, self.live(joined, &mut failures)).await {
                Ok(Ok(end)) => return end,
                Ok(Err(LeaseLost { written })) => written,
                Err(panic) => {
                    // With its lease goes the lead, if it led.
                    let _ = timer::timeout(LEAVE_WITHIN, self.registrar.revoke(lease)).await;
                    if !supervisor.failed(Name::Agent, &panic).await {
                        return End::Failed;
                    }
                    known
                }
            };
            self.status.announce(PeerEvent::Detached);
            log::warn!("the lease was lost; the server goes on serving and rejoins");
            joined = match self.rejoin(written).await {
                Ok(joined) => joined,
                Err(end) => return end,
            };
            self.status.unconfigured();
            self.status.announce(PeerEvent::Rejoined);
            log::info!("rejoined as {}", self.context.uuid);
        }
    }

    async fn rejoin(&mut self, written: LastWritten) -> Result<Registration, End> {
        let mut lease = OwnLease::new(&self.registrar.etcd, self.context.options.ttl);
        let joined = self.rejoin_on(&mut lease, written).await;
        if joined.is_err() {
            lease.give_back().await;
        }
        joined
    }

    async fn rejoin_on(&mut self, lease: &mut OwnLease, written: LastWritten) -> Result<Registration, End> {
        for attempt in 0.. {
            match self.attach(lease, Some(written)).await {
                Ok(joined) => return Ok(joined),
                Err(RegisterError::Evicted) => return Err(self.evicted()),
                Err(RegisterError::Etcd(error)) => self.registrar.etcd.log_failure("rejoining", &error),
            }
            let wait = full_jitter(attempt, Duration::from_millis(100), Duration::from_secs(5), fastrand::f64());
            let command = timer::timeout(wait, self.commands.next()).await;
            if let Ok(command) = command {
                // There is nothing to take out of the mesh.
                if let Some(Command::Leave(done) | Command::Finish(done)) = command {
                    let _ = done.send(());
                }
                return Err(End::Left);
            }
        }
        Err(End::Left)
    }

    fn evicted(&self) -> End {
        log::warn!("server {} was removed from the mesh and stays out until it is started anew", self.context.uuid);
        self.status.announce(PeerEvent::Evicted);
        End::Evicted
    }

    /// One session, from its registration until the lease is lost.
    async fn live(
        &mut self,
        joined: Registration,
        failures: &mut mpsc::UnboundedReceiver<Name>,
    ) -> Result<End, LeaseLost> {
        let lease = joined.lease;
        let mut session = Session::start(joined, &self.registrar, &self.context.supervisor);
        self.election(&mut session, election::Event::LeaseHeld(lease));
        loop {
            futures::select_biased! {
                input = session.inputs.select_next_some() => {
                    if let Some(end) = self.take_in(&mut session, input).await? {
                        return Ok(end);
                    }
                }
                _ = failures.select_next_some() => self.task_failed(&mut session),
                command = self.commands.next() => match command {
                    Some(Command::Leave(done)) => {
                        self.leave(&mut session).await;
                        let _ = done.send(());
                    }
                    Some(Command::Finish(done)) => {
                        self.registrar.revoke(session.lease).await;
                        let _ = done.send(());
                        return Ok(End::Left);
                    }
                    // The peer was dropped without a word.
                    None => {
                        self.leave(&mut session).await;
                        self.registrar.revoke(session.lease).await;
                        return Ok(End::Left);
                    }
                },
            }
        }
    }

    async fn leave(&mut self, session: &mut Session) {
        let led = session.election.term().is_some();
        session.leaving = true;
        session.election_tasks.clear();
        let leaving = self.registrar.leave(session.lease);
        match timer::timeout(LEAVE_WITHIN, leaving).await {
            // Nobody else is there to say it: the successor finds no record.
            Ok(Ok(())) if led => {
                log::info!(target: "registry", "Deleted server {} because it killed itself", self.context.uuid);
            }
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::warn!("leaving without a word, the lease will expire: {error}"),
            Err(_) => log::warn!("leaving without a word, the lease will expire: etcd did not answer in time"),
        }
        self.status.announce(PeerEvent::Deposed);
    }

    async fn take_in(&mut self, session: &mut Session, input: Input) -> Result<Option<End>, LeaseLost> {
        match input {
            _ if session.leaving => {}
            Input::Lease(LeaseNews::InDoubt(why)) => {
                self.election(session, election::Event::LeaseInDoubt);
                self.status.announce(PeerEvent::Detached);
                log::warn!("etcd is in doubt: the lease was not renewed in time; the server goes on serving: {why}");
            }
            Input::Lease(LeaseNews::HeldAgain) => {
                self.status.announce(PeerEvent::Rejoined);
                log::info!("etcd is back: the lease lives");
                self.election(session, election::Event::LeaseHeld(session.lease));
            }
            Input::Lease(LeaseNews::Lost) => return Err(LeaseLost { written: session.written }),
            Input::Own(change) => self.own_record_changed(session, change),
            Input::RemovalCause(verdict) => return self.judged(session, verdict).await,
            Input::Responsive => session.register(&self.registrar),
            Input::NewHistory => self.start_over(session),
            Input::RecordMissing => session.resolve_removal(&self.registrar, None),
            // Else it stands once the lease is held, or the record is put, again.
            Input::Resigned if !session.returning && lock(&session.clock).is_held(Instant::now()) => {
                self.election(session, election::Event::LeaseHeld(session.lease));
            }
            Input::Registered(Ok(written)) => self.registered(session, written),
            Input::Registered(Err(RegisterError::Evicted)) => return Ok(Some(self.evict(session).await)),
            Input::Registered(Err(RegisterError::Etcd(error))) => {
                self.registrar.etcd.log_failure("registering anew", &error);
                session.failed_registrations += 1;
                session.register(&self.registrar);
            }
            Input::Election(turn, event) if turn == session.turn => self.election(session, event),
            Input::Resign(turn, unreached) if turn == session.turn => {
                if let Some(term) = session.election.term() {
                    self.resign(session, term, unreached);
                }
            }
            Input::Resigned | Input::Resign(..) | Input::Election(..) => {}
        }
        Ok(None)
    }

    fn registered(&mut self, session: &mut Session, written: LastWritten) {
        session.failed_registrations = 0;
        // Where the history changed meanwhile, the next registration is on its way.
        session.written = written;
        self.status.announce(PeerEvent::Rejoined);
        log::info!("registered again as {}", self.context.uuid);
        if std::mem::take(&mut session.returning) {
            self.election(session, election::Event::LeaseHeld(session.lease));
        }
    }

    /// In a new history nothing holds that was known of revisions and absent keys: neither that this peer leads, nor whom it
    /// follows, nor that it is registered.
    fn start_over(&mut self, session: &mut Session) {
        self.election(session, election::Event::LeaseInDoubt);
        session.election_tasks.clear();
        self.status.announce(PeerEvent::Detached);
        self.status.unconfigured();
        session.returning = true;
        session.register(&self.registrar);
    }

    fn own_record_changed(&mut self, session: &mut Session, change: Change) {
        match change {
            Change::Put { current, .. } => {
                session.written.revision = session.written.revision.max(current.modified);
                if Record::from_json(&current.value).is_ok_and(|record| record.configured) {
                    self.status.announce(PeerEvent::Configured);
                }
            }
            Change::Deleted { revision, observed, .. } => {
                session.resolve_removal(&self.registrar, observed.then_some(revision));
            }
            Change::Listed { .. } | Change::NewHistory => {}
            Change::Stale { reason } => log::debug!("the watch on the own record was interrupted: {reason}"),
        }
    }

    async fn judged(&mut self, session: &mut Session, verdict: RemovalCause) -> Result<Option<End>, LeaseLost> {
        self.status.unconfigured();
        match verdict {
            RemovalCause::Evicted => return Ok(Some(self.evict(session).await)),
            RemovalCause::DeletedByHand | RemovalCause::Unexplained => {
                self.status.announce(PeerEvent::Detached);
                log::warn!(
                    "the record of this server is gone from etcd, and nothing proves that a person meant it; \
                     registering anew"
                );
                session.register(&self.registrar);
            }
            RemovalCause::LeaseLost => return Err(LeaseLost { written: session.written }),
            RemovalCause::Reset => {
                self.status.announce(PeerEvent::Detached);
                log::info!("the mesh was reset; registering anew");
                session.register(&self.registrar);
            }
            RemovalCause::Mute => {
                self.status.announce(PeerEvent::Detached);
                log::warn!("the registry removed this server because it did not answer; it rejoins once it does");
                session.await_response(&self.registrar, &self.beats);
            }
        }
        Ok(None)
    }

    async fn evict(&mut self, session: &mut Session) -> End {
        session.election_tasks.clear();
        let _ = timer::timeout(LEAVE_WITHIN, self.registrar.revoke(session.lease)).await;
        self.evicted()
    }
}

/// A registration under a lease.
#[derive(Clone)]
pub(crate) struct Registration {
    lease: LeaseId,
    clock: SharedClock,
    written: LastWritten,
}

struct LeaseLost {
    written: LastWritten,
}
