//! The tasks of one session: each waits for one thing, and tells the agent.

use super::{
    Input, PeerContext, Registration, Session,
    campaign::{self, AFTER_THE_NEXT, Duty},
    lease_keeper,
    registration::Registrar,
    watchdog::LivenessCheck,
};
use crate::{
    io::{
        etcd::{Change, Target},
        tasks::{Name, Supervisor},
        timer,
    },
    leader,
    sync::lock,
};
use futures::{
    FutureExt as _, StreamExt as _,
    channel::{mpsc, oneshot},
    future::join,
};
use palm_proto::{
    backoff::full_jitter,
    election::{Candidate, Election, Event, Resignations},
    removal::{LastWritten, RemovalCause},
    types::ids::{LeaseId, Revision},
};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long to wait before asking etcd again for what it did not do.
fn again(attempt: u32) -> Duration {
    full_jitter(attempt, Duration::from_millis(300), Duration::from_secs(10), fastrand::f64())
}

impl Session {
    pub(super) fn start(joined: Registration, registrar: &Registrar, supervisor: &Supervisor) -> Self {
        let (tx, inputs) = mpsc::unbounded();
        let mut session = Self {
            lease: joined.lease,
            clock: joined.clock,
            written: joined.written,
            election: Election::default(),
            followed: None,
            returning: false,
            failed_registrations: 0,
            turn: 0,
            resignations: Resignations::default(),
            known: campaign::KnownEndpoints::default(),
            tx,
            inputs,
            leaving: false,
            supervisor: supervisor.clone(),
            tasks: Vec::new(),
            election_tasks: Vec::new(),
        };
        session.keep_lease(registrar);
        session.watch_record(registrar);
        session.watch_history(registrar);
        session
    }

    fn keep_lease(&mut self, registrar: &Registrar) {
        let (etcd, lease, clock, tx) = (registrar.etcd.clone(), self.lease, Arc::clone(&self.clock), self.tx.clone());
        let start = move || {
            let (tell_news, mut news) = mpsc::unbounded();
            let keeping = lease_keeper::keep(etcd.clone(), lease, Arc::clone(&clock), tell_news);
            let tx = tx.clone();
            let passing_on = async move {
                while let Some(news) = news.next().await {
                    let _ = tx.unbounded_send(Input::Lease(news));
                }
            };
            join(keeping, passing_on).map(drop)
        };
        self.tasks.push(registrar.etcd.keep(&self.supervisor, Name::LeaseKeeper, start));
    }

    fn watch_record(&mut self, registrar: &Registrar) {
        let (etcd, key, tx) = (registrar.etcd.clone(), registrar.keys.server(registrar.record.uuid), self.tx.clone());
        let mut first = true;
        let start = move || {
            let mut watch = etcd.watch(Target::Key(key.clone()));
            let tx = tx.clone();
            // Who watched before may have ended before it told that the record went.
            let mut unsure = !std::mem::take(&mut first);
            async move {
                loop {
                    let change = watch.next().await;
                    if matches!(change, Change::Listed { .. })
                        && std::mem::take(&mut unsure)
                        && watch.items().is_empty()
                    {
                        let _ = tx.unbounded_send(Input::RecordMissing);
                    }
                    if tx.unbounded_send(Input::Own(change)).is_err() {
                        return;
                    }
                }
            }
        };
        self.tasks.push(registrar.etcd.keep(&self.supervisor, Name::OwnRecord, start));
    }

    /// Tells when etcd's history is another one than that in which the peer registered.
    fn watch_history(&mut self, registrar: &Registrar) {
        let (etcd, tx) = (registrar.etcd.clone(), self.tx.clone());
        let known = Arc::new(AtomicU64::new(self.written.epoch));
        let start = move || {
            let (etcd, tx, known) = (etcd.clone(), tx.clone(), Arc::clone(&known));
            async move {
                loop {
                    known.store(etcd.history_after(known.load(Ordering::Relaxed)).await, Ordering::Relaxed);
                    if tx.unbounded_send(Input::NewHistory).is_err() {
                        return;
                    }
                }
            }
        };
        self.tasks.push(registrar.etcd.keep(&self.supervisor, Name::History, start));
    }

    /// Finds out why the record is gone, which a live watch saw being `deleted`, or a listing did not find.
    pub(super) fn resolve_removal(&mut self, registrar: &Registrar, mut deleted: Option<Revision>) {
        let (registrar_clone, written, lease) = (registrar.clone(), self.written, self.lease);
        self.spawn(registrar, Name::Investigation, move || {
            // What happened between two attempts nobody saw.
            resolve_removal(registrar_clone.clone(), written, deleted.take(), lease)
        });
    }

    /// Puts the record anew, on the same lease.
    pub(super) fn register(&mut self, registrar: &Registrar) {
        let (registrar_clone, written, lease) = (registrar.clone(), self.written, self.lease);
        let attempt = self.failed_registrations;
        self.spawn(registrar, Name::Registration, move || {
            let registrar = registrar_clone.clone();
            async move {
                let result = registrar.register(lease, Some(written)).await;
                if result.is_err() {
                    timer::sleep(again(attempt)).await;
                }
                Input::Registered(result)
            }
        });
    }

    /// Waits until the serving loop turns.
    pub(super) fn await_response(&mut self, registrar: &Registrar, beats: &mpsc::UnboundedSender<LivenessCheck>) {
        let beats = beats.clone();
        self.spawn(registrar, Name::AwaitResponse, move || {
            let (answer, answered) = oneshot::channel();
            // Without a loop there is no response, and the sender is dropped.
            let _ = beats.unbounded_send(answer);
            async move {
                if answered.await.is_err() {
                    futures::future::pending::<()>().await;
                }
                Input::Responsive
            }
        });
    }

    /// Gives up the lead of this term, so that the next in line leads at once, and stands again after a while: when it reaches what it
    /// did not, or nobody else stands.
    pub(super) fn resign(
        &mut self,
        registrar: &Registrar,
        context: &PeerContext,
        term: Revision,
        unreached: Vec<Uuid>,
    ) {
        let (etcd, keys, own) = (registrar.etcd.clone(), registrar.keys.clone(), registrar.keys.candidate(self.lease));
        let dialer = context.dialer.for_probes(&registrar.etcd);
        let wait = self.resignations.resigned(Instant::now());
        self.spawn(registrar, Name::Resignation, move || {
            let (etcd, keys, own, dialer) = (etcd.clone(), keys.clone(), own.clone(), dialer.clone());
            let unreached = unreached.clone();
            async move {
                campaign::resign(&etcd, &own, term).await;
                campaign::until_reached(&etcd, &keys, &dialer, unreached, wait).await;
                Input::Resigned
            }
        });
    }

    pub(super) fn stand(&mut self, registrar: &Registrar, lease: LeaseId) {
        let (etcd, keys, me) = (registrar.etcd.clone(), registrar.keys.clone(), registrar.record.uuid);
        self.spawn_for_election(registrar, Name::Candidacy, move || {
            let (etcd, keys) = (etcd.clone(), keys.clone());
            async move { Event::Listed(campaign::stand(&etcd, &keys, me, lease).await) }
        });
    }

    pub(super) fn follow(
        &mut self,
        registrar: &Registrar,
        context: &PeerContext,
        predecessor: Candidate,
        ahead: Vec<Candidate>,
        leader: Option<Candidate>,
        own: Revision,
    ) {
        self.watch_key(registrar, predecessor.key.clone(), predecessor.created);
        self.watch_key(registrar, registrar.keys.candidate(self.lease), own);
        self.followed = Some(predecessor.clone());
        for ahead in ahead {
            self.watch_key(registrar, ahead.key, ahead.created);
        }
        let Some(leader) = leader else { return };
        lock(&self.known).retain(|uuid, _| Some(*uuid) == leader.uuid || Some(*uuid) == predecessor.uuid);
        // The predecessor, should it lead next, must be known by then.
        let after = if predecessor == leader {
            Duration::ZERO
        } else {
            self.monitor_leader(registrar, context, predecessor, Duty::Know);
            AFTER_THE_NEXT
        };
        self.monitor_leader(registrar, context, leader, Duty::Bury(after));
    }

    fn monitor_leader(&mut self, registrar: &Registrar, context: &PeerContext, candidate: Candidate, duty: Duty) {
        let (etcd, keys, known) = (registrar.etcd.clone(), registrar.keys.clone(), Arc::clone(&self.known));
        let dialer = context.dialer.for_probes(&registrar.etcd);
        let start = move || {
            let (etcd, keys, dialer, known) = (etcd.clone(), keys.clone(), dialer.clone(), Arc::clone(&known));
            let candidate = candidate.clone();
            async move { campaign::monitor_leader(&etcd, &keys, &dialer, (&candidate, duty), &known).await }
        };
        self.election_tasks.push(registrar.etcd.keep(&self.supervisor, Name::LeaderWatch, start));
    }

    pub(super) fn lead(&mut self, registrar: &Registrar, context: &PeerContext, term: Revision) {
        self.watch_key(registrar, registrar.keys.candidate(self.lease), term);
        // The duties must never keep the lease from being renewed.
        let etcd = registrar.etcd.beside("palm-leader").unwrap_or_else(|error| {
            log::warn!("leading without a thread for it, beside the renewal of the lease: {error}");
            registrar.etcd.clone()
        });
        let context = leader::LeaderContext {
            etcd: etcd.clone(),
            keys: registrar.keys.clone(),
            me: context.uuid,
            options: context.options.clone(),
            dialer: context.dialer.for_probes(&etcd),
            candidate: registrar.keys.candidate(self.lease),
            term,
            clock: Arc::clone(&self.clock),
            predecessor: self.followed.take(),
        };
        let (tx, turn) = (self.tx.clone(), self.turn);
        let start = move || {
            let (tx, leading) = (tx.clone(), leader::lead(context.clone()));
            async move {
                let _ = tx.unbounded_send(match leading.await {
                    // The fence is closed: some other candidate leads, or the key is gone.
                    leader::End::Deposed => Input::Election(turn, Event::KeyGone),
                    leader::End::Resigned(unreached) => Input::Resign(turn, unreached),
                });
            }
        };
        self.election_tasks.push(etcd.keep(&self.supervisor, Name::Leader, start));
    }

    /// Tells the election when a key that was created then is gone.
    fn watch_key(&mut self, registrar: &Registrar, key: String, created: Revision) {
        let etcd = registrar.etcd.clone();
        self.spawn_for_election(registrar, Name::CandidateWatch, move || {
            let (etcd, key) = (etcd.clone(), key.clone());
            async move {
                campaign::gone(&etcd, key, created).await;
                Event::KeyGone
            }
        });
    }

    fn spawn<F>(&mut self, registrar: &Registrar, name: Name, mut start: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = Input> + Send + 'static,
    {
        let tx = self.tx.clone();
        let telling = move || {
            let (tx, input) = (tx.clone(), start());
            async move { drop(tx.unbounded_send(input.await)) }
        };
        self.tasks.retain(|task| !task.is_finished());
        self.tasks.push(registrar.etcd.keep(&self.supervisor, name, telling));
    }

    fn spawn_for_election<F>(
        &mut self,
        registrar: &Registrar,
        name: Name,
        mut start: impl FnMut() -> F + Send + 'static,
    ) where
        F: Future<Output = Event> + Send + 'static,
    {
        let (tx, turn) = (self.tx.clone(), self.turn);
        let telling = move || {
            let (tx, event) = (tx.clone(), start());
            async move { drop(tx.unbounded_send(Input::Election(turn, event.await))) }
        };
        self.election_tasks.push(registrar.etcd.keep(&self.supervisor, name, telling));
    }
}

async fn resolve_removal(
    registrar: Registrar,
    written: LastWritten,
    mut deleted: Option<Revision>,
    lease: LeaseId,
) -> Input {
    for attempt in 0.. {
        match registrar.verdict(written, deleted, lease).await {
            Ok(verdict) => return Input::RemovalCause(verdict),
            // What happened in between nobody saw.
            Err(error) => {
                deleted = None;
                registrar.etcd.log_failure("finding out why the record is gone", &error);
            }
        }
        timer::sleep(again(attempt)).await;
    }
    Input::RemovalCause(RemovalCause::Unexplained)
}
