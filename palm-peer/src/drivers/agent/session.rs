//! The tasks of one session: each waits for one thing, and tells the agent.

use super::{
    Guarded, Input, Joined, Session, candidacy,
    keeper::{self},
    registration::Registrar,
};
use crate::{
    decisions::election::{Candidate, Election, Event},
    drivers::{
        duties,
        serving::{Beat, core::Core},
    },
    facts::ids::{LeaseId, Revision},
    ports::{etcd::Target, timer},
};
use futures::{
    FutureExt as _, StreamExt as _,
    channel::{mpsc, oneshot},
    future::join,
};
use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

/// How long to wait before asking etcd again for what it did not do.
const AGAIN: Duration = Duration::from_millis(300);

impl Session {
    pub(super) fn start(joined: Joined, registrar: &Registrar) -> Self {
        let (tell, inputs) = mpsc::unbounded();
        let mut session = Self {
            lease: joined.lease,
            clock: joined.clock,
            written: joined.written,
            election: Election::new(),
            followed: None,
            turn: 0,
            tell,
            inputs,
            farewell: Arc::new(Mutex::new(None)),
            leaving: false,
            tasks: Vec::new(),
            election_tasks: Vec::new(),
        };
        session.keep_lease(registrar);
        session.watch_record(registrar);
        session
    }

    fn keep_lease(&mut self, registrar: &Registrar) {
        let (tell_news, mut news) = mpsc::unbounded();
        let keeping = keeper::keep(registrar.etcd.clone(), self.lease, Arc::clone(&self.clock), tell_news);
        let tell = self.tell.clone();
        let passing_on = async move {
            while let Some(news) = news.next().await {
                let _ = tell.unbounded_send(Input::Lease(news));
            }
        };
        self.tasks.push(Guarded(registrar.etcd.spawn(join(keeping, passing_on).map(drop))));
    }

    fn watch_record(&mut self, registrar: &Registrar) {
        let mut watch = registrar.etcd.watch(Target::Key(registrar.keys.server(registrar.record.uuid)));
        let tell = self.tell.clone();
        self.tasks.push(Guarded(
            registrar.etcd.spawn(async move { while tell.unbounded_send(Input::Own(watch.next().await)).is_ok() {} }),
        ));
    }

    /// Finds out why the record is gone.
    pub(super) fn investigate(&mut self, registrar: &Registrar) {
        let (registrar_clone, written, lease) = (registrar.clone(), self.written, self.lease);
        self.spawn(registrar, async move {
            loop {
                match registrar_clone.verdict(written, lease).await {
                    Ok(verdict) => return Input::Verdict(verdict),
                    Err(error) => log::debug!("why the record is gone is not known yet: {error}"),
                }
                timer::sleep(AGAIN).await;
            }
        });
    }

    /// Puts the record anew, on the same lease.
    pub(super) fn register(&mut self, registrar: &Registrar) {
        let (registrar_clone, written, lease) = (registrar.clone(), self.written, self.lease);
        self.spawn(registrar, async move {
            let result = registrar_clone.register(lease, Some(written)).await;
            if result.is_err() {
                timer::sleep(AGAIN).await;
            }
            Input::Registered(result)
        });
    }

    /// Waits until the serving loop turns.
    pub(super) fn await_response(&mut self, registrar: &Registrar, beats: &mpsc::UnboundedSender<Beat>) {
        let (answer, answered) = oneshot::channel();
        // Without a loop there is no response, and the sender is dropped.
        let _ = beats.unbounded_send(answer);
        self.spawn(registrar, async move {
            if answered.await.is_err() {
                futures::future::pending::<()>().await;
            }
            Input::Responsive
        });
    }

    pub(super) fn stand(&mut self, registrar: &Registrar, lease: LeaseId) {
        let (etcd, keys, me) = (registrar.etcd.clone(), registrar.keys.clone(), registrar.record.uuid);
        self.spawn_for_election(
            registrar,
            async move { Event::Listed(candidacy::stand(&etcd, &keys, me, lease).await) },
        );
    }

    pub(super) fn follow(
        &mut self,
        registrar: &Registrar,
        core: &Core,
        predecessor: Candidate,
        ahead: Option<Candidate>,
    ) {
        self.stand_by(registrar, predecessor.key.clone());
        self.stand_by(registrar, registrar.keys.candidate(self.lease));
        self.followed = Some(predecessor.clone());
        if let Some(ahead) = ahead {
            return self.stand_by(registrar, ahead.key);
        }
        let (etcd, keys, dialer) =
            (registrar.etcd.clone(), registrar.keys.clone(), core.dialer.for_probes(&registrar.etcd));
        let watching = async move { candidacy::watch_over(&etcd, &keys, &dialer, &predecessor).await };
        self.election_tasks.push(Guarded(registrar.etcd.spawn(watching)));
    }

    pub(super) fn lead(&mut self, registrar: &Registrar, core: &Arc<Core>, term: Revision) {
        self.stand_by(registrar, registrar.keys.candidate(self.lease));
        let mandate = duties::Mandate {
            etcd: registrar.etcd.clone(),
            keys: registrar.keys.clone(),
            me: core.uuid,
            options: core.options.clone(),
            dialer: core.dialer.for_probes(&registrar.etcd),
            candidate: registrar.keys.candidate(self.lease),
            term,
            clock: Arc::clone(&self.clock),
            farewell: Arc::clone(&self.farewell),
            predecessor: self.followed.take(),
        };
        // The fence is closed: some other candidate leads, or the key is gone.
        self.spawn_for_election(registrar, duties::lead(mandate).map(|()| Event::KeyGone));
    }

    /// Tells the election when a key is gone.
    fn stand_by(&mut self, registrar: &Registrar, key: String) {
        let etcd = registrar.etcd.clone();
        self.spawn_for_election(registrar, async move {
            candidacy::gone(&etcd, key).await;
            Event::KeyGone
        });
    }

    fn spawn(&mut self, registrar: &Registrar, task: impl Future<Output = Input> + Send + 'static) {
        let tell = self.tell.clone();
        let task = registrar.etcd.spawn(async move { drop(tell.unbounded_send(task.await)) });
        self.tasks.retain(|task| !task.0.is_finished());
        self.tasks.push(Guarded(task));
    }

    fn spawn_for_election(&mut self, registrar: &Registrar, task: impl Future<Output = Event> + Send + 'static) {
        let (tell, turn) = (self.tell.clone(), self.turn);
        let task = registrar.etcd.spawn(async move { drop(tell.unbounded_send(Input::Election(turn, task.await))) });
        self.election_tasks.push(Guarded(task));
    }
}
