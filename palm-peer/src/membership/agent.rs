//! The agent: joins the mesh, runs one session after the other, and rejoins.

use super::{
    context::{LEAVE_WITHIN, Membership},
    handle::{Command, ExitReason},
    own_lease::{OwnLease, Registration},
    registration::RegisterError,
    session::{LeaseLost, Session},
    status::PeerEvent,
    watchdog,
};
use crate::{
    error::{Error, ErrorKind},
    io::{
        etcd::EtcdErrorKind,
        tasks::{self, Name},
        timer,
    },
};
use futures::{
    StreamExt as _,
    channel::{mpsc, oneshot},
    future::{Either, select},
};
use palm_proto::{backoff::Backoff, removal::LastWritten};
use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

/// The shortest interval between log lines about what a joining server waits for.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The waits between attempts to join, and to rejoin.
const JOIN_BACKOFF: Backoff =
    Backoff::full_jitter(Duration::from_millis(100), Duration::from_secs(2));
const REJOIN_BACKOFF: Backoff =
    Backoff::full_jitter(Duration::from_millis(100), Duration::from_secs(5));

/// One peer's agent.
pub(crate) struct Agent {
    membership: Membership,
    commands: mpsc::UnboundedReceiver<Command>,
}

impl Agent {
    /// Creates an agent that has not joined yet.
    pub(crate) fn new(membership: Membership, commands: mpsc::UnboundedReceiver<Command>) -> Self {
        Self {
            membership,
            commands,
        }
    }

    /// Joins, reports over `joined` whether that succeeded, and stays in the mesh until it
    /// leaves or is evicted.
    pub(crate) async fn live(self, mut joined: oneshot::Sender<Result<(), Error>>) -> ExitReason {
        match self.join(joined.cancellation()).await {
            Ok(registration) => {
                // The caller may have stopped waiting; then the handles are gone, and
                // the agent leaves.
                let _ = joined.send(Ok(()));
                let status = Arc::clone(&self.membership.context.status);
                let reason = self.run(registration).await;
                status.end();
                reason
            }
            Err(error) => {
                let _ = joined.send(Err(error));
                ExitReason::Left
            }
        }
    }

    /// Registers, within `join_timeout`. Gives up when the caller stops waiting. Nothing is left in
    /// etcd then, unless etcd is unavailable.
    async fn join(
        &self,
        cancelled: impl Future<Output = ()> + Unpin,
    ) -> Result<Registration, Error> {
        let mut lease = OwnLease::new(
            &self.membership.registrar.etcd,
            self.membership.context.config.ttl,
        );
        let joined = match select(pin!(self.join_on(&mut lease)), cancelled).await {
            Either::Left((joined, _)) => joined,
            Either::Right(_) => Err(Error::new(ErrorKind::Io, "joining was given up")),
        };
        if joined.is_err() {
            lease.give_back().await;
        }
        joined
    }

    /// Tries to register on this lease until etcd does it, refuses, or takes too long.
    async fn join_on(&self, lease: &mut OwnLease) -> Result<Registration, Error> {
        let join_timeout = self.membership.context.config.join_timeout;
        let deadline = Instant::now() + join_timeout;
        let mut logged: Option<Instant> = None;
        let mut failures = 0_u32;
        loop {
            let error = match self.attach(lease, None).await {
                Ok(joined) => return Ok(joined),
                Err(RegisterError::Evicted) => {
                    return Err(Error::new(ErrorKind::Evicted, "removed while joining"));
                }
                Err(RegisterError::Etcd(error)) => error,
            };
            let wait = JOIN_BACKOFF.wait(failures, fastrand::f64());
            failures = failures.saturating_add(1);
            if !error.is_passing() || Instant::now() + wait > deadline {
                return Err(error.into());
            }
            if logged.is_none_or(|logged| logged.elapsed() > LOG_EVERY) {
                log::warn!(
                    "joining waits for etcd, {join_timeout:?} at most (PALM_JOIN_TIMEOUT): {error}"
                );
                logged = Some(Instant::now());
            }
            timer::sleep(wait).await;
        }
    }

    /// Registers on a lease, which the next attempt reuses if this one fails.
    async fn attach(
        &self,
        own: &mut OwnLease,
        known: Option<LastWritten>,
    ) -> Result<Registration, RegisterError> {
        let (lease, clock) = own.hold().await?;
        let registered = self.membership.registrar.register(lease, known).await;
        if matches!(&registered, Err(RegisterError::Etcd(error)) if error.kind() == EtcdErrorKind::LeaseGone)
        {
            own.forget();
        }
        Ok(Registration {
            lease,
            clock,
            written: registered?,
        })
    }

    /// Stays in the mesh until it leaves or is evicted.
    async fn run(mut self, first: Registration) -> ExitReason {
        let Membership {
            registrar,
            context,
            liveness,
        } = self.membership.clone();
        let status = Arc::clone(&context.status);
        let supervisor = context.supervisor;
        let keeping = move || watchdog::keep(liveness.clone());
        let _watchdog = registrar.etcd.keep(&supervisor, Name::Watchdog, keeping);
        let mut failures = supervisor.failures();
        let mut joined = first;
        loop {
            let (lease, known) = (joined.lease, joined.written);
            // A panic drops the session, and ends its tasks.
            let session = async {
                Session::start(joined, self.membership.clone())
                    .run(&mut self.commands, &mut failures)
                    .await
            };
            let written = match tasks::caught(Name::Agent, session).await {
                Ok(Ok(reason)) => return reason,
                Ok(Err(LeaseLost { written })) => written,
                Err(panic) => {
                    // A leader loses the lead with its lease.
                    let _ = timer::timeout(LEAVE_WITHIN, registrar.revoke(lease)).await;
                    if !supervisor.failed(Name::Agent, &panic).await {
                        return ExitReason::Failed;
                    }
                    known
                }
            };
            context.metrics.losses.increment();
            // A leader whose lease was revoked had no time to step down.
            status.announce(PeerEvent::Deposed);
            status.announce(PeerEvent::Detached);
            log::warn!("the lease was lost; the server continues to serve and rejoins");
            joined = match self.rejoin(written).await {
                Ok(joined) => joined,
                Err(reason) => return reason,
            };
            status.unconfigured();
            status.announce(PeerEvent::Rejoined);
            log::info!("rejoined as {}", context.uuid);
        }
    }

    async fn rejoin(&mut self, written: LastWritten) -> Result<Registration, ExitReason> {
        let mut lease = OwnLease::new(
            &self.membership.registrar.etcd,
            self.membership.context.config.ttl,
        );
        let joined = self.rejoin_on(&mut lease, written).await;
        if joined.is_err() {
            lease.give_back().await;
        }
        joined
    }

    async fn rejoin_on(
        &mut self,
        lease: &mut OwnLease,
        written: LastWritten,
    ) -> Result<Registration, ExitReason> {
        let mut failures = 0_u32;
        loop {
            match self.attach(lease, Some(written)).await {
                Ok(joined) => return Ok(joined),
                Err(RegisterError::Evicted) => return Err(self.membership.evicted()),
                Err(RegisterError::Etcd(error)) => self
                    .membership
                    .registrar
                    .etcd
                    .log_failure("rejoining", &error),
            }
            let wait = REJOIN_BACKOFF.wait(failures, fastrand::f64());
            failures = failures.saturating_add(1);
            let command = timer::timeout(wait, self.next_departure()).await;
            if let Ok(command) = command {
                // There is no registration to remove.
                if let Some(done) = command {
                    let _ = done.send(());
                }
                return Err(ExitReason::Left);
            }
        }
    }

    /// Waits for the command to leave, or for the end of the last handle. While the server is not
    /// registered, its readiness is written with the next registration.
    async fn next_departure(&mut self) -> Option<oneshot::Sender<()>> {
        loop {
            match self.commands.next().await {
                Some(Command::Leave(done) | Command::Finish(done)) => return Some(done),
                Some(Command::Readiness) => {}
                None => return None,
            }
        }
    }
}
