//! The tasks of one session: each waits for one thing, and reports it to the session.

use super::{
    campaign::{self, AFTER_THE_NEXT, Duty, LeaderMonitor},
    context::Membership,
    lease_keeper::{self, LeaseNews},
    registration::{RegisterError, Registrar},
};
use crate::{
    client::{link_pool::LinkPool, replies::ReplyRouter},
    io::{
        etcd::{AbortOnDrop, Change, Target},
        tasks::Name,
        timer,
    },
    leader::{self, SharedClock},
};
use futures::{
    FutureExt as _, StreamExt as _,
    channel::{mpsc, oneshot},
    future::join,
};
use palm_proto::{
    backoff::Backoff,
    election::{self, Candidate, Event, Follow},
    removal::{LastWritten, RemovalCause},
    types::ids::{LeaseId, Revision},
};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;

/// The waits before etcd is asked again for what it did not do.
const BACKOFF: Backoff = Backoff::full_jitter(Duration::from_millis(300), Duration::from_secs(10));

/// An input of the session, from its tasks.
#[derive(Debug)]
pub(crate) enum AgentInput {
    /// An event of the lease.
    Lease(LeaseNews),
    /// A change of the peer's own record.
    Own(Change),
    /// Why the peer's own record is gone.
    RemovalCause(RemovalCause),
    /// etcd went back to an earlier revision, or another cluster replaced it.
    NewHistory,
    /// The dispatch loop runs again after the registry removed the server as unresponsive.
    Responsive,
    /// The record was put again, or could not be.
    Registered(Result<LastWritten, RegisterError>),
    /// The peer has resigned, and may campaign again.
    Resigned,
    /// The duties of this generation report that others reach these servers, which this
    /// leader does not.
    Resign(u64, Vec<Uuid>),
    /// The watch of the peer's own record was restarted, and the record is absent.
    RecordMissing,
    /// An event from a task of the election, with its generation.
    Election(u64, election::Event),
}

/// The tasks of a session. They end when this is dropped.
pub(crate) struct SessionTasks {
    membership: Membership,
    lease: LeaseId,
    clock: SharedClock,
    tx: mpsc::UnboundedSender<AgentInput>,
    /// The links to candidates that are watched.
    links: Arc<LinkPool>,
    /// Incremented with each action of the election; events of earlier generations are stale.
    generation: u64,
    of_session: Vec<AbortOnDrop<()>>,
    /// The task that tells etcd whether the server is ready.
    readiness: Option<AbortOnDrop<()>>,
    /// The tasks of the current generation.
    of_election: Vec<AbortOnDrop<()>>,
}

impl SessionTasks {
    /// Starts the tasks of every session: they renew the lease, and watch the record that was
    /// `written` and etcd's history.
    pub(crate) fn start(
        membership: Membership,
        lease: LeaseId,
        clock: SharedClock,
        written: LastWritten,
    ) -> (Self, mpsc::UnboundedReceiver<AgentInput>) {
        let (tx, inputs) = mpsc::unbounded();
        let dialer = membership
            .context
            .dialer
            .for_probes(&membership.registrar.etcd);
        let mut tasks = Self {
            membership,
            lease,
            clock,
            tx,
            links: Arc::new(LinkPool::new(dialer, ReplyRouter::default())),
            generation: 0,
            of_session: Vec::new(),
            readiness: None,
            of_election: Vec::new(),
        };
        tasks.keep_lease();
        tasks.watch_record();
        tasks.watch_history(written.epoch);
        (tasks, inputs)
    }

    /// Returns the current generation of the election's tasks.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Ends the tasks of the election, and begins the next generation.
    pub(crate) fn next_turn(&mut self) {
        self.generation += 1;
        self.of_election.clear();
    }

    /// Ends the tasks of the election.
    pub(crate) fn end_election(&mut self) {
        self.of_election.clear();
        self.links.retain(|_| false);
    }

    fn keep_lease(&mut self) {
        let (etcd, lease, clock) = (
            self.membership.registrar.etcd.clone(),
            self.lease,
            Arc::clone(&self.clock),
        );
        let (tx, metrics) = (
            self.tx.clone(),
            Arc::clone(&self.membership.context.metrics),
        );
        self.keep(Name::LeaseKeeper, move || {
            let (news_tx, mut news) = mpsc::unbounded();
            let keeping = lease_keeper::keep(
                etcd.clone(),
                lease,
                Arc::clone(&clock),
                Arc::clone(&metrics),
                news_tx,
            );
            let tx = tx.clone();
            let passing_on = async move {
                while let Some(news) = news.next().await {
                    let _ = tx.unbounded_send(AgentInput::Lease(news));
                }
            };
            join(keeping, passing_on).map(drop)
        });
    }

    fn watch_record(&mut self) {
        let Registrar {
            etcd, keys, record, ..
        } = &self.membership.registrar;
        let (etcd, key, tx) = (etcd.clone(), keys.server(record.uuid), self.tx.clone());
        let mut first = true;
        self.keep(Name::OwnRecord, move || {
            let mut watch = etcd.watch(Target::Key(key.clone()));
            let tx = tx.clone();
            // The previous watch may have ended before it reported a deletion.
            let mut recheck = !std::mem::take(&mut first);
            async move {
                loop {
                    let change = watch.next().await;
                    if matches!(change, Change::Listed { .. })
                        && std::mem::take(&mut recheck)
                        && watch.items().is_empty()
                    {
                        let _ = tx.unbounded_send(AgentInput::RecordMissing);
                    }
                    if tx.unbounded_send(AgentInput::Own(change)).is_err() {
                        return;
                    }
                }
            }
        });
    }

    /// Reports when etcd's history is not the one in which the peer registered.
    fn watch_history(&mut self, known: u64) {
        let (etcd, tx) = (self.membership.registrar.etcd.clone(), self.tx.clone());
        let known = Arc::new(AtomicU64::new(known));
        self.keep(Name::History, move || {
            let (etcd, tx, known) = (etcd.clone(), tx.clone(), Arc::clone(&known));
            async move {
                loop {
                    known.store(
                        etcd.history_after(known.load(Ordering::Relaxed)).await,
                        Ordering::Relaxed,
                    );
                    if tx.unbounded_send(AgentInput::NewHistory).is_err() {
                        return;
                    }
                }
            }
        });
    }

    /// Determines why the record is gone; `deleted` is the revision, if a live watch reported it.
    pub(crate) fn resolve_removal(&mut self, written: LastWritten, mut deleted: Option<Revision>) {
        let (registrar, lease) = (self.membership.registrar.clone(), self.lease);
        self.spawn(Name::Investigation, move || {
            // Changes between two attempts were not observed.
            resolve_removal(registrar.clone(), written, deleted.take(), lease)
        });
    }

    /// Puts the record again, on the same lease; a failure is reported after a backoff.
    pub(crate) fn register(&mut self, written: LastWritten, failures: u32) {
        let (registrar, lease) = (self.membership.registrar.clone(), self.lease);
        self.spawn(Name::Registration, move || {
            let registrar = registrar.clone();
            async move {
                let result = registrar.register(lease, Some(written)).await;
                if result.is_err() {
                    timer::sleep(BACKOFF.wait(failures, fastrand::f64())).await;
                }
                AgentInput::Registered(result)
            }
        });
    }

    /// Tells etcd whether the server is ready; retries until etcd takes it. Ends the task before:
    /// what that one may still write, this one reads again.
    pub(crate) fn put_readiness(&mut self) {
        let Membership {
            registrar, context, ..
        } = &self.membership;
        let (etcd, supervisor) = (registrar.etcd.clone(), context.supervisor.clone());
        let registrar = registrar.clone();
        self.readiness = Some(etcd.keep(&supervisor, Name::Readiness, move || {
            let registrar = registrar.clone();
            async move {
                let putting = || registrar.put_readiness();
                let etcd = &registrar.etcd;
                etcd.retry("writing whether the server is ready", BACKOFF, putting)
                    .await;
            }
        }));
    }

    /// Waits until the dispatch loop runs.
    pub(crate) fn await_response(&mut self) {
        let liveness = self.membership.liveness.clone();
        self.spawn(Name::AwaitResponse, move || {
            let (answer, answered) = oneshot::channel();
            // Without a loop there is no response, and the sender is dropped.
            let _ = liveness.unbounded_send(answer);
            async move {
                if answered.await.is_err() {
                    futures::future::pending::<()>().await;
                }
                AgentInput::Responsive
            }
        });
    }

    /// Resigns from this term, so that the next in line leads at once, and campaigns again after a
    /// while: when it reaches the servers that it did not, or there is no other candidate.
    pub(crate) fn resign(&mut self, term: Revision, unreached: Vec<Uuid>, wait: Duration) {
        let Registrar { etcd, keys, .. } = self.membership.registrar.clone();
        let own = keys.candidate(self.lease);
        let dialer = self.membership.context.dialer.for_probes(&etcd);
        self.spawn(Name::Resignation, move || {
            let (etcd, keys, own, dialer) =
                (etcd.clone(), keys.clone(), own.clone(), dialer.clone());
            let unreached = unreached.clone();
            async move {
                campaign::resign(&etcd, &own, term).await;
                campaign::until_reached(&etcd, &keys, &dialer, unreached, wait).await;
                AgentInput::Resigned
            }
        });
    }

    /// Campaigns for election.
    pub(crate) fn campaign(&mut self, lease: LeaseId) {
        let Registrar {
            etcd, keys, record, ..
        } = self.membership.registrar.clone();
        self.spawn_for_election(Name::Candidacy, move || {
            let (etcd, keys) = (etcd.clone(), keys.clone());
            async move { Event::Listed(campaign::put_candidate(&etcd, &keys, record.uuid, lease).await) }
        });
    }

    /// Watches the candidates before this one, and monitors the leader, if this one is next
    /// or second in line.
    pub(crate) fn follow(&mut self, follow: Follow) {
        let Follow {
            predecessor,
            ahead,
            leader,
            own,
        } = follow;
        self.watch_key(predecessor.key.clone(), predecessor.created);
        self.watch_key(self.own_candidacy(), own);
        for ahead in ahead {
            self.watch_key(ahead.key, ahead.created);
        }
        let Some(leader) = leader else {
            return self.links.retain(|_| false);
        };
        self.links
            .retain(|uuid| leader.uuid == Some(uuid) || predecessor.uuid == Some(uuid));
        // The predecessor must be known before it leads.
        let after = if predecessor == leader {
            Duration::ZERO
        } else {
            self.monitor_leader(predecessor, Duty::Know);
            AFTER_THE_NEXT
        };
        self.monitor_leader(leader, Duty::RemoveDead(after));
    }

    fn monitor_leader(&mut self, candidate: Candidate, duty: Duty) {
        let Registrar { etcd, keys, .. } = self.membership.registrar.clone();
        let dialer = self.membership.context.dialer.for_probes(&etcd);
        let monitor = LeaderMonitor {
            etcd,
            keys,
            dialer,
            links: Arc::clone(&self.links),
            candidate,
            duty,
        };
        self.keep_for_election(Name::LeaderWatch, move || monitor.clone().run());
    }

    /// Leads in this term, after `predecessor`.
    pub(crate) fn lead(&mut self, term: Revision, predecessor: Option<Candidate>) {
        self.links.retain(|_| false);
        self.watch_key(self.own_candidacy(), term);
        let Membership {
            registrar, context, ..
        } = &self.membership;
        // The duties must never delay the renewal of the lease.
        let etcd = registrar.etcd.beside("palm-leader").unwrap_or_else(|error| {
            log::warn!(
                "no thread could be started for leading, so it runs on the thread that renews the lease: {error}"
            );
            registrar.etcd.clone()
        });
        let leader = leader::LeaderContext {
            etcd: etcd.clone(),
            keys: registrar.keys.clone(),
            me: context.uuid,
            config: context.config.clone(),
            dialer: context.dialer.for_probes(&etcd),
            candidate: self.own_candidacy(),
            term,
            clock: Arc::clone(&self.clock),
            predecessor,
            metrics: Arc::clone(&context.metrics.leader),
        };
        let (tx, generation) = (self.tx.clone(), self.generation);
        let leading = move || {
            let (tx, leading) = (tx.clone(), leader::lead(leader.clone()));
            async move {
                let _ = tx.unbounded_send(match leading.await {
                    // Fenced: another candidate leads, or the key is gone.
                    leader::Exit::Deposed => AgentInput::Election(generation, Event::KeyGone),
                    leader::Exit::Resigned(unreached) => AgentInput::Resign(generation, unreached),
                });
            }
        };
        self.of_election
            .push(etcd.keep(&context.supervisor, Name::Leader, leading));
    }

    fn own_candidacy(&self) -> String {
        self.membership.registrar.keys.candidate(self.lease)
    }

    /// Reports to the election when the key that was created at this revision is gone.
    fn watch_key(&mut self, key: String, created: Revision) {
        let etcd = self.membership.registrar.etcd.clone();
        self.spawn_for_election(Name::CandidateWatch, move || {
            let (etcd, key) = (etcd.clone(), key.clone());
            async move {
                campaign::gone(&etcd, key, created).await;
                Event::KeyGone
            }
        });
    }

    fn spawn<F>(&mut self, name: Name, mut start: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = AgentInput> + Send + 'static,
    {
        let tx = self.tx.clone();
        self.of_session.retain(|task| !task.is_finished());
        self.keep(name, move || {
            let (tx, input) = (tx.clone(), start());
            async move { drop(tx.unbounded_send(input.await)) }
        });
    }

    fn spawn_for_election<F>(&mut self, name: Name, mut start: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = Event> + Send + 'static,
    {
        let (tx, generation) = (self.tx.clone(), self.generation);
        self.keep_for_election(name, move || {
            let (tx, event) = (tx.clone(), start());
            async move { drop(tx.unbounded_send(AgentInput::Election(generation, event.await))) }
        });
    }

    fn keep<F>(&mut self, name: Name, start: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Membership {
            registrar, context, ..
        } = &self.membership;
        self.of_session
            .push(registrar.etcd.keep(&context.supervisor, name, start));
    }

    fn keep_for_election<F>(&mut self, name: Name, start: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Membership {
            registrar, context, ..
        } = &self.membership;
        self.of_election
            .push(registrar.etcd.keep(&context.supervisor, name, start));
    }
}

async fn resolve_removal(
    registrar: Registrar,
    written: LastWritten,
    mut deleted: Option<Revision>,
    lease: LeaseId,
) -> AgentInput {
    let verdict = || {
        // What happened between two attempts nobody saw.
        let deleted = deleted.take();
        registrar.verdict(written, deleted, lease)
    };
    AgentInput::RemovalCause(
        registrar
            .etcd
            .retry("finding out why the record is gone", BACKOFF, verdict)
            .await,
    )
}
