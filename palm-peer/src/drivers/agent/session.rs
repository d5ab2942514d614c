//! The tasks of one session: each waits for one thing, and tells the agent.

use super::{
    Guarded, Input, Joined, Session, candidacy,
    keeper::{self},
    registration::Registrar,
};
use crate::{
    decisions::{
        backoff::backoff,
        election::{Candidate, Election, Event},
        removal::Verdict,
    },
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
fn again(attempt: u32) -> Duration {
    backoff(attempt, Duration::from_millis(300), Duration::from_secs(5), fastrand::f64())
}

impl Session {
    pub(super) fn start(joined: Joined, registrar: &Registrar) -> Self {
        let (tell, inputs) = mpsc::unbounded();
        let mut session = Self {
            lease: joined.lease,
            clock: joined.clock,
            written: joined.written,
            election: Election::new(),
            followed: None,
            returning: false,
            failed_registrations: 0,
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
        session.watch_history(registrar);
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

    /// Tells when etcd's history is another one than that in which the peer registered.
    fn watch_history(&mut self, registrar: &Registrar) {
        let (etcd, tell, mut epoch) = (registrar.etcd.clone(), self.tell.clone(), self.written.epoch);
        self.tasks.push(Guarded(registrar.etcd.spawn(async move {
            loop {
                epoch = etcd.history_after(epoch).await;
                if tell.unbounded_send(Input::NewHistory).is_err() {
                    return;
                }
            }
        })));
    }

    /// Finds out why the record is gone, which a live watch saw being `deleted`, or a listing did not find.
    pub(super) fn investigate(&mut self, registrar: &Registrar, mut deleted: Option<Revision>) {
        let (registrar_clone, written, lease) = (registrar.clone(), self.written, self.lease);
        self.spawn(registrar, async move {
            for attempt in 0.. {
                match registrar_clone.verdict(written, deleted, lease).await {
                    Ok(verdict) => return Input::Verdict(verdict),
                    // What happened in between nobody saw.
                    Err(error) => {
                        deleted = None;
                        registrar_clone.etcd.log_failure("finding out why the record is gone", &error);
                    }
                }
                timer::sleep(again(attempt)).await;
            }
            Input::Verdict(Verdict::Unexplained)
        });
    }

    /// Puts the record anew, on the same lease.
    pub(super) fn register(&mut self, registrar: &Registrar) {
        let (registrar_clone, written, lease) = (registrar.clone(), self.written, self.lease);
        let attempt = self.failed_registrations;
        self.spawn(registrar, async move {
            let result = registrar_clone.register(lease, Some(written)).await;
            if result.is_err() {
                timer::sleep(again(attempt)).await;
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
        own: Revision,
    ) {
        self.stand_by(registrar, predecessor.key.clone(), predecessor.created);
        self.stand_by(registrar, registrar.keys.candidate(self.lease), own);
        self.followed = Some(predecessor.clone());
        if let Some(ahead) = ahead {
            return self.stand_by(registrar, ahead.key, ahead.created);
        }
        let (etcd, keys, dialer) =
            (registrar.etcd.clone(), registrar.keys.clone(), core.dialer.for_probes(&registrar.etcd));
        let watching = async move { candidacy::watch_over(&etcd, &keys, &dialer, &predecessor).await };
        self.election_tasks.push(Guarded(registrar.etcd.spawn(watching)));
    }

    pub(super) fn lead(&mut self, registrar: &Registrar, core: &Arc<Core>, term: Revision) {
        self.stand_by(registrar, registrar.keys.candidate(self.lease), term);
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

    /// Tells the election when a key that was created then is gone.
    fn stand_by(&mut self, registrar: &Registrar, key: String, created: Revision) {
        let etcd = registrar.etcd.clone();
        self.spawn_for_election(registrar, async move {
            candidacy::gone(&etcd, key, created).await;
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
