//! The leader's duties: carries out what registry and pipeliner decide, for one term.

pub mod farewell;
mod links;
mod publication;
mod writes;

use self::{
    farewell::{Farewell, SharedFarewell},
    links::Links,
};
use crate::{
    Options,
    decisions::{
        backoff::backoff,
        election::Candidate,
        lease::LeaseClock,
        pipeliner::{self, Outcome, Pipeliner, Write},
        registry::{Action, Event, Line, Registry},
    },
    drivers::{dialer::Dialer, lock::lock},
    facts::{
        departure::Departure,
        ids::{LeaseId, Revision},
        keys::Keys,
        pipeline::Pipeline,
        record::Record,
    },
    ports::{
        etcd::{Change, Etcd, KeyValue, Lease, Target, Watch},
        timer,
    },
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use std::{
    future::Future,
    ops::ControlFlow,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long to wait before asking etcd again for what it did not do, at first and at most.
const AGAIN: Duration = Duration::from_millis(200);
const MOST_WAIT: Duration = Duration::from_secs(5);

/// How many events are taken in before what they come to is published.
const BATCH: usize = 1000;

/// The lease's clock, for whoever must look at it right before a write.
pub type SharedClock = Arc<Mutex<LeaseClock>>;

/// What entitles a peer to lead, and what it needs for it.
#[derive(Clone)]
pub struct Mandate {
    /// Where.
    pub etcd: Etcd,
    /// Under which keys.
    pub keys: Keys,
    /// Who leads.
    pub me: Uuid,
    /// How.
    pub options: Options,
    /// Opens the links to the servers.
    pub dialer: Dialer,
    /// The leader's own key of the election.
    pub candidate: String,
    /// When that key was created: what every write compares.
    pub term: Revision,
    /// The lease that the key is on.
    pub clock: SharedClock,
    /// What to publish on leaving.
    pub farewell: SharedFarewell,
    /// Who led before, as far as this peer saw.
    pub predecessor: Option<Candidate>,
}

/// What ended.
enum Done {
    Event(Event),
    LinkBroken(Uuid),
    Published {
        write: Write,
        outcome: Outcome,
    },
    PublicationLost,
    /// The fence is closed.
    Deposed,
    Nothing,
}

/// What the leader hears.
enum Input {
    Changed(Change),
    Done(Done),
    Tick,
}

struct Leader {
    mandate: Mandate,
    registry: Registry,
    pipeliner: Pipeliner,
    publication: LeaseId,
    links: Links,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Whether all servers are known: before, nothing is published or counted.
    whole: bool,
    /// Whether what is known of the servers has changed since it was last compared with what is published.
    stale: bool,
    /// How many publications in a row etcd did not do.
    failures: u32,
    /// How many rounds the pipeliner has listed the servers after.
    listed: u64,
}

/// Leads until deposed. Dropping it stops all duties at once.
pub async fn lead(mandate: Mandate) {
    log::info!("leading the mesh, in term {}", mandate.term);
    let (publication, pipeliner) = publication::take_over(&mandate).await;
    let mut servers = mandate.etcd.watch(Target::Prefix(mandate.keys.servers()));
    let mut leader = Leader {
        registry: Registry::new(mandate.me, &mandate.options, Instant::now()),
        links: Links::new(mandate.dialer.clone(), mandate.options.probe_timeout),
        mandate,
        pipeliner,
        publication,
        work: FuturesUnordered::new(),
        whole: false,
        stale: false,
        failures: 0,
        listed: 0,
    };
    leader.keep_publication();
    leader.run(&mut servers).await;
    log::debug!("deposed");
}

/// How long to wait after that many failures in a row, when etcd is asked again for what it did not do.
fn again(failures: u32) -> Duration {
    backoff(failures, AGAIN, MOST_WAIT, fastrand::f64())
}

impl Leader {
    async fn run(&mut self, servers: &mut Watch) {
        loop {
            let input = self.next(servers).await;
            if self.take_in(input).is_break() {
                return;
            }
            // When a thousand servers join at once, what clients can reach is worked out once for all of them.
            for _ in 0..BATCH {
                let Some(input) = self.next(servers).now_or_never() else { break };
                if self.take_in(input).is_break() {
                    return;
                }
            }
            self.settle();
        }
    }

    async fn next(&mut self, servers: &mut Watch) -> Input {
        let deadline = self.whole.then(|| self.registry.deadline());
        let tick = async move {
            match deadline {
                Some(deadline) => timer::sleep_until(deadline).await,
                None => futures::future::pending().await,
            }
        };
        futures::select_biased! {
            change = servers.next().fuse() => Input::Changed(change),
            done = self.work.select_next_some() => Input::Done(done),
            () = Box::pin(tick).fuse() => Input::Tick,
        }
    }

    fn take_in(&mut self, input: Input) -> ControlFlow<()> {
        match input {
            // Nothing that this leader knows holds any more: whoever leads now begins anew.
            Input::Changed(Change::NewHistory) | Input::Done(Done::Deposed) => return ControlFlow::Break(()),
            Input::Changed(change) => self.changed(change),
            Input::Done(done) => self.done(done),
            Input::Tick => self.tick(),
        }
        ControlFlow::Continue(())
    }

    /// After a batch: publishes what has changed, and forgets the links of servers that are gone.
    fn settle(&mut self) {
        for (uuid, broken) in self.links.newly_opened() {
            self.work.push(broken.map(move |()| Done::LinkBroken(uuid)).boxed());
        }
        if !self.whole {
            return;
        }
        if std::mem::take(&mut self.stale) {
            self.links.keep_only(|uuid| self.registry.endpoint(uuid).is_some());
            self.pipeliner.want(self.registry.published());
        }
        self.publish();
        self.list_servers();
    }

    fn tick(&mut self) {
        let actions = self.registry.tick(Instant::now());
        self.stale |= actions.iter().any(|action| matches!(action, Action::Remove { .. }));
        self.perform(actions);
    }

    /// The pipeliner has its say once a period as well: when the round is over, and what it found is published.
    fn list_servers(&mut self) {
        let rounds = self.registry.rounds();
        if self.listed < rounds && !self.registry.is_busy() && self.pipeliner.is_settled() {
            self.listed = rounds;
            for line in pipeliner::list(self.registry.published()) {
                write_line("pipeliner", &line);
            }
        }
    }

    fn event(&mut self, event: Event) {
        // An answer alone changes nothing that clients see.
        self.stale |= !matches!(event, Event::Answered { .. });
        let actions = self.registry.handle(event, Instant::now());
        self.perform(actions);
    }

    fn changed(&mut self, change: Change) {
        match change {
            Change::Put { current, .. } => {
                let event = self.read(current);
                self.event(event);
            }
            Change::Deleted { previous, .. } => self.explain(previous),
            Change::Listed { .. } => {
                (self.whole, self.stale) = (true, true);
                self.mourn();
            }
            Change::Interrupted { reason } => log::debug!("the watch on the servers was interrupted: {reason}"),
            Change::NewHistory => {}
        }
    }

    fn read(&self, kv: KeyValue) -> Event {
        let name = kv.key.strip_prefix(&self.mandate.keys.servers()).unwrap_or(&kv.key);
        match Record::from_entry(name, &kv.value) {
            Ok(record) => Event::Stands { record, modified: kv.modified, lease: kv.lease },
            Err(broken) => Event::Broken { key: kv.key, reason: broken.to_string() },
        }
    }

    /// Finds out why a record is gone.
    fn explain(&mut self, gone: KeyValue) {
        let name = gone.key.strip_prefix(&self.mandate.keys.servers()).unwrap_or(&gone.key);
        let Ok(record) = Record::from_entry(name, &gone.value) else {
            return self.event(Event::Mended { key: gone.key });
        };
        let mandate = self.mandate.clone();
        self.work
            .push(async move { Done::Event(writes::explain_deletion(&mandate, record.uuid, &gone).await) }.boxed());
    }

    /// A leader that ended in silence leaves nobody who could say so but its successor.
    fn mourn(&mut self) {
        let Some(predecessor) = self.mandate.predecessor.take() else { return };
        let Some(uuid) = predecessor.uuid.filter(|uuid| self.registry.endpoint(*uuid).is_none()) else { return };
        let mandate = self.mandate.clone();
        self.work.push(
            async move {
                match writes::end_of_predecessor(&mandate, uuid, predecessor.lease).await {
                    Ok(Some(reason)) => log::info!(target: "registry", "Deleted server {uuid} because {reason}"),
                    Ok(None) => {}
                    Err(error) => mandate.etcd.log_failure("finding out how the leader before ended", &error),
                }
                Done::Nothing
            }
            .boxed(),
        );
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Event(event) => self.event(event),
            Done::LinkBroken(uuid) => self.prove_gone(uuid),
            Done::Published { write, outcome } => self.published(&write, outcome),
            // All is put again under another lease by leading anew.
            Done::PublicationLost => self.work.push(async { Done::Deposed }.boxed()),
            Done::Deposed | Done::Nothing => {}
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Log(line) => write_line("registry", &line),
                Action::Probe { uuid, endpoint, token, fresh } => {
                    let probing = self.links.probe(uuid, endpoint, fresh);
                    self.work.push(
                        probing
                            .map(move |answer| {
                                Done::Event(match answer {
                                    Ok(digest) => Event::Answered { uuid, token, digest },
                                    Err(reason) => Event::Unanswered { uuid, token, reason },
                                })
                            })
                            .boxed(),
                    );
                }
                Action::Configure { record, modified } => {
                    let uuid = record.uuid;
                    self.write(uuid, writes::configure(self.mandate.clone(), record, modified));
                }
                Action::Remove { uuid, modified, reason, lease, revoke } => {
                    let removal = writes::Removal { uuid, modified, reason, lease, revoke };
                    self.write(uuid, writes::remove(self.mandate.clone(), removal));
                }
            }
        }
    }

    fn write(&mut self, uuid: Uuid, writing: impl Future<Output = writes::Written> + Send + 'static) {
        self.work.push(
            writing
                .map(move |written| match written {
                    writes::Written::Deposed => Done::Deposed,
                    written => Done::Event(Event::Written { uuid, done: matches!(written, writes::Written::Done(_)) }),
                })
                .boxed(),
        );
    }

    fn prove_gone(&mut self, uuid: Uuid) {
        let Some(endpoint) = self.registry.endpoint(uuid) else { return };
        let proof = self.links.prove_gone(uuid, endpoint);
        self.work
            .push(proof.map(move |gone| if gone { Done::Event(Event::Gone { uuid }) } else { Done::Nothing }).boxed());
    }

    fn publish(&mut self) {
        let wait = again(self.failures);
        for write in self.pipeliner.writes() {
            let publishing = writes::publish(self.mandate.clone(), write.clone(), self.publication);
            self.work.push(
                async move {
                    match publishing.await {
                        writes::Written::Done(revision) => Done::Published { write, outcome: Outcome::Done(revision) },
                        writes::Written::Conflict(found) => {
                            Done::Published { write, outcome: Outcome::Conflict(found) }
                        }
                        writes::Written::Deposed => Done::Deposed,
                        writes::Written::LeaseGone => Done::PublicationLost,
                        writes::Written::Failed => {
                            timer::sleep(wait).await;
                            Done::Published { write, outcome: Outcome::Failed }
                        }
                    }
                }
                .boxed(),
            );
        }
    }

    fn published(&mut self, write: &Write, outcome: Outcome) {
        if let (Outcome::Done(revision), Some(pipeline)) = (&outcome, &write.pipeline) {
            self.prepare_farewell(*revision, pipeline);
        }
        self.failures = if matches!(outcome, Outcome::Failed) { self.failures.saturating_add(1) } else { 0 };
        self.pipeliner.written(&write.server, outcome);
    }

    fn prepare_farewell(&self, revision: Revision, pipeline: &Pipeline) {
        let Mandate { me, keys, farewell, .. } = &self.mandate;
        if pipeline.instances.iter().any(|instance| instance.uuid == *me) {
            let key = keys.pipeline(&pipeline.server);
            *lock(farewell) =
                Some(Farewell::prepare(key, revision, pipeline.clone(), *me, Lease::Attach(self.publication)));
        }
    }

    fn keep_publication(&mut self) {
        let keeping = publication::keep(self.mandate.etcd.clone(), self.publication);
        self.work.push(keeping.map(|()| Done::PublicationLost).boxed());
    }
}

fn write_line(target: &str, line: &Line) {
    if line.critical {
        log::error!(target: target, critical = true; "{}", line.text);
    } else {
        log::log!(target: target, line.level, "{}", line.text);
    }
}

/// The note under a key of `/departed/`.
fn departure_in(kv: Option<KeyValue>) -> Option<(Departure, Revision)> {
    kv.and_then(|kv| Some((Departure::from_json(&kv.value)?, kv.modified)))
}
