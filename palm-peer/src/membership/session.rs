//! One session: a lease, from the registration on it until it is lost, or the server leaves.

use super::{
    context::{LEAVE_WITHIN, Membership},
    handle::{Command, ExitReason},
    lease_keeper::LeaseNews,
    own_lease::Registration,
    registration::RegisterError,
    session_tasks::{AgentInput, SessionTasks},
    status::PeerEvent,
};
use crate::{
    io::{etcd::Change, tasks::Name, timer},
    leader::SharedClock,
    sync::lock,
};
use futures::{StreamExt as _, channel::mpsc};
use palm_proto::{
    election::{self, Action, Candidate, Election, Resignations},
    removal::{LastWritten, RemovalCause},
    types::{
        ids::{LeaseId, Revision},
        record::Record,
    },
};
use std::time::Instant;
use uuid::Uuid;

/// The lease was lost.
pub(crate) struct LeaseLost {
    /// The last write of the record.
    pub(crate) written: LastWritten,
}

/// A lease, and everything that depends on it.
pub(crate) struct Session {
    membership: Membership,
    lease: LeaseId,
    clock: SharedClock,
    /// The last known write of the record.
    written: LastWritten,
    election: Election,
    /// Whether the peer must register before it campaigns again, because etcd has a new history.
    returning: bool,
    /// The number of failures in a row.
    failed_registrations: u32,
    /// The predecessor that this peer watched last: the previous leader, once it leads.
    followed: Option<Candidate>,
    resignations: Resignations,
    inputs: mpsc::UnboundedReceiver<AgentInput>,
    leaving: bool,
    tasks: SessionTasks,
}

impl Session {
    /// Begins a session with this registration.
    pub(crate) fn start(joined: Registration, membership: Membership) -> Self {
        let Registration {
            lease,
            clock,
            written,
        } = joined;
        let (tasks, inputs) =
            SessionTasks::start(membership.clone(), lease, clock.clone(), written);
        Self {
            membership,
            lease,
            clock,
            written,
            election: Election::default(),
            returning: false,
            failed_registrations: 0,
            followed: None,
            resignations: Resignations::default(),
            inputs,
            leaving: false,
            tasks,
        }
    }

    /// Runs until the server has left or was evicted, or until the lease is lost.
    pub(crate) async fn run(
        mut self,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        failures: &mut mpsc::UnboundedReceiver<Name>,
    ) -> Result<ExitReason, LeaseLost> {
        self.elect(election::Event::LeaseHeld(self.lease));
        loop {
            futures::select_biased! {
                input = self.inputs.select_next_some() => {
                    if let Some(reason) = self.handle_input(input).await? {
                        return Ok(reason);
                    }
                }
                _ = failures.select_next_some() => self.handle_task_failure(),
                command = commands.next() => match command {
                    Some(Command::Leave(done)) => {
                        self.leave().await;
                        let _ = done.send(());
                    }
                    Some(Command::Readiness) => self.put_readiness(),
                    Some(Command::Finish(done)) => {
                        self.membership.registrar.revoke(self.lease).await;
                        let _ = done.send(());
                        return Ok(ExitReason::Left);
                    }
                    // The peer was dropped without leaving.
                    None => {
                        self.leave().await;
                        self.membership.registrar.revoke(self.lease).await;
                        return Ok(ExitReason::Left);
                    }
                },
            }
        }
    }

    async fn leave(&mut self) {
        let led = self.election.term().is_some();
        self.leaving = true;
        self.tasks.end_election();
        let leaving = self.membership.registrar.leave(self.lease);
        match timer::timeout(LEAVE_WITHIN, leaving).await {
            // The successor finds no record, so this peer logs it itself.
            Ok(Ok(())) if led => {
                let uuid = self.membership.context.uuid;
                log::info!(target: "registry", "Deleted server {uuid} because it killed itself");
            }
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                log::warn!("leaving without deleting the record, the lease will expire: {error}");
            }
            Err(_) => {
                log::warn!(
                    "leaving without deleting the record, the lease will expire: etcd did not answer in time"
                );
            }
        }
        self.announce(PeerEvent::Deposed);
    }

    fn put_readiness(&mut self) {
        if !self.leaving {
            self.tasks.put_readiness();
        }
    }

    fn announce(&self, event: PeerEvent) {
        self.membership.context.status.announce(event);
    }

    async fn handle_input(&mut self, input: AgentInput) -> Result<Option<ExitReason>, LeaseLost> {
        match input {
            _ if self.leaving => {}
            AgentInput::Lease(LeaseNews::InDoubt(why)) => {
                self.membership.context.metrics.doubts.increment();
                self.elect(election::Event::LeaseInDoubt);
                self.announce(PeerEvent::Detached);
                log::warn!(
                    "etcd is in doubt: the lease was not renewed in time; the server continues to serve: {why}"
                );
            }
            AgentInput::Lease(LeaseNews::HeldAgain) => {
                self.announce(PeerEvent::Rejoined);
                log::info!("etcd is back: the lease lives");
                self.elect(election::Event::LeaseHeld(self.lease));
            }
            AgentInput::Lease(LeaseNews::Lost) => {
                return Err(LeaseLost {
                    written: self.written,
                });
            }
            AgentInput::Own(change) => self.handle_own_record(change),
            AgentInput::RemovalCause(cause) => return self.handle_removal(cause).await,
            AgentInput::Responsive => self.register(),
            AgentInput::NewHistory => self.start_over(),
            AgentInput::RecordMissing => self.tasks.resolve_removal(self.written, None),
            // Otherwise it campaigns once the lease is held, or the record is put, again.
            AgentInput::Resigned
                if !self.returning && lock(&self.clock).is_held(Instant::now()) =>
            {
                self.elect(election::Event::LeaseHeld(self.lease));
            }
            AgentInput::Registered(Ok(written)) => self.handle_registered(written),
            AgentInput::Registered(Err(RegisterError::Evicted)) => {
                return Ok(Some(self.evict().await));
            }
            AgentInput::Registered(Err(RegisterError::Etcd(error))) => {
                self.membership
                    .registrar
                    .etcd
                    .log_failure("registering again", &error);
                self.failed_registrations += 1;
                self.register();
            }
            AgentInput::Election(generation, event) if generation == self.tasks.generation() => {
                self.elect(event);
            }
            AgentInput::Resign(generation, unreached) if generation == self.tasks.generation() => {
                if let Some(term) = self.election.term() {
                    self.resign(term, unreached);
                }
            }
            AgentInput::Resigned | AgentInput::Resign(..) | AgentInput::Election(..) => {}
        }
        Ok(None)
    }

    fn register(&mut self) {
        self.tasks.register(self.written, self.failed_registrations);
    }

    fn handle_registered(&mut self, written: LastWritten) {
        self.failed_registrations = 0;
        // If the history changed meanwhile, the next registration is in progress.
        self.written = written;
        self.announce(PeerEvent::Rejoined);
        log::info!("registered again as {}", self.membership.context.uuid);
        if std::mem::take(&mut self.returning) {
            self.elect(election::Event::LeaseHeld(self.lease));
        }
    }

    /// Starts over in a new history: nothing that was known about revisions and absent keys holds,
    /// neither that this peer leads, nor whom it follows, nor that it is registered.
    fn start_over(&mut self) {
        self.elect(election::Event::LeaseInDoubt);
        self.tasks.end_election();
        self.announce(PeerEvent::Detached);
        self.membership.context.status.unconfigured();
        self.returning = true;
        self.register();
    }

    fn handle_own_record(&mut self, change: Change) {
        match change {
            Change::Put { current, .. } => {
                self.written.revision = self.written.revision.max(current.modified);
                if let Ok(record) = Record::from_json(&current.value) {
                    self.handle_record(&record);
                }
            }
            Change::Deleted {
                revision, observed, ..
            } => {
                self.tasks
                    .resolve_removal(self.written, observed.then_some(revision));
            }
            Change::Listed { .. } | Change::NewHistory => {}
            Change::Stale { reason } => {
                log::debug!("the watch on the own record was interrupted: {reason}");
            }
        }
    }

    fn handle_record(&mut self, record: &Record) {
        if record.configured {
            self.announce(PeerEvent::Configured);
        } else {
            self.membership.context.status.unconfigured();
        }
        let ready = record.is_ready();
        self.announce(if ready {
            PeerEvent::Ready
        } else {
            PeerEvent::NotReady
        });
        if ready != self.membership.registrar.is_ready() {
            self.tasks.put_readiness();
        }
    }

    async fn handle_removal(
        &mut self,
        cause: RemovalCause,
    ) -> Result<Option<ExitReason>, LeaseLost> {
        self.membership.context.status.unconfigured();
        match cause {
            RemovalCause::Evicted => return Ok(Some(self.evict().await)),
            RemovalCause::DeletedByHand | RemovalCause::Unexplained => {
                self.announce(PeerEvent::Detached);
                log::warn!(
                    "the record of this server is gone from etcd, and nothing proves that an administrator deleted it; \
                     registering again"
                );
                self.register();
            }
            RemovalCause::LeaseLost => {
                return Err(LeaseLost {
                    written: self.written,
                });
            }
            RemovalCause::Reset => {
                self.announce(PeerEvent::Detached);
                log::info!("the mesh was reset; registering again");
                self.register();
            }
            RemovalCause::Mute => {
                self.announce(PeerEvent::Detached);
                log::warn!(
                    "the registry removed this server because it did not answer; it rejoins once it does"
                );
                self.tasks.await_response();
            }
        }
        Ok(None)
    }

    async fn evict(&mut self) -> ExitReason {
        self.tasks.end_election();
        let _ = timer::timeout(LEAVE_WITHIN, self.membership.registrar.revoke(self.lease)).await;
        self.membership.evicted()
    }

    /// Handles the panic of a task, which is restarted after a while. A leader cannot know what it
    /// missed meanwhile, and resigns.
    fn handle_task_failure(&mut self) {
        if self.leaving {
            return;
        }
        if let Some(term) = self.election.term() {
            self.resign(term, Vec::new());
        }
    }

    fn resign(&mut self, term: Revision, unreached: Vec<Uuid>) {
        self.elect(election::Event::LeaseInDoubt);
        let wait = self.resignations.resigned(Instant::now());
        self.tasks.resign(term, unreached, wait);
    }

    /// Passes an event to the election, and carries out its actions.
    fn elect(&mut self, event: election::Event) {
        for action in self.election.handle(event) {
            self.tasks.next_turn();
            match action {
                Action::Campaign(lease) => self.tasks.campaign(lease),
                Action::Follow(follow) => {
                    self.followed = Some(follow.predecessor.clone());
                    self.tasks.follow(follow);
                }
                Action::Lead(term) => {
                    self.membership.context.metrics.terms.increment();
                    self.announce(PeerEvent::Elected);
                    self.tasks.lead(term, self.followed.take());
                }
                Action::StepDown => {
                    self.announce(PeerEvent::Deposed);
                    log::info!("no longer leading the mesh");
                }
            }
        }
    }
}
