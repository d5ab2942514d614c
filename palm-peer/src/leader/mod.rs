//! The leader's duties: carries out the actions of registry and pipeliner, for one term.

mod links;
mod metrics;
mod takeover;
pub(crate) mod tombstones;
mod writes;

pub(crate) use self::metrics::LeaderMetrics;

use self::links::{Links, ProbeError};
use crate::{
    client::dialer::Dialer,
    io::{
        etcd::{Change, Etcd, KeyValue, Target, Watch},
        executor,
        timer::{self, Sleep},
    },
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use palm_proto::{
    backoff::Backoff,
    config::ValidConfig,
    election::Candidate,
    lease::LeaseClock,
    pipeliner,
    registry::{Action, Event, Line, Registry, Token},
    types::{ids::Revision, keys::Keys, record::Record},
};
use std::{
    future::Future,
    ops::ControlFlow,
    pin::pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The waits before etcd is asked again for what it did not do.
const BACKOFF: Backoff = Backoff::equal_jitter(Duration::from_millis(200), Duration::from_secs(5));

/// How many events are handled in a batch before their actions are carried out.
const BATCH: usize = 100;

/// The lease's clock, which is checked right before each write.
pub(crate) type SharedClock = Arc<Mutex<LeaseClock>>;

/// The context of a leader: its term, and what it needs to lead.
#[derive(Clone)]
pub(crate) struct LeaderContext {
    /// Where.
    pub etcd: Etcd,
    /// Under which keys.
    pub keys: Keys,
    /// Who leads.
    pub me: Uuid,
    /// How.
    pub config: ValidConfig,
    /// Opens the links to the servers.
    pub dialer: Dialer,
    /// The leader's own key of the election.
    pub candidate: String,
    /// When that key was created: what every write compares.
    pub term: Revision,
    /// The lease that the key is on.
    pub clock: SharedClock,
    /// The previous leader, as far as this peer saw.
    pub predecessor: Option<Candidate>,
    /// Counts what it does.
    pub metrics: Arc<LeaderMetrics>,
}

/// The output of a task.
// Most of them are events, and few exist at a time.
#[allow(clippy::large_enum_variant)]
enum Output {
    Event(Event),
    LinkBroken(Uuid),
    /// The writes of a batch of records ended.
    Vouched(Vec<(Uuid, writes::WriteOutcome)>),
    /// The leader's duties ended.
    Duties(Exit),
    Nothing,
}

/// An input of the leader's loop.
enum Input {
    Changed(Change),
    Output(Output),
    Tick,
}

struct Leader {
    context: LeaderContext,
    registry: Registry,
    links: Links,
    work: FuturesUnordered<BoxFuture<'static, Output>>,
    /// Whether the first listing is complete: before, nothing is counted.
    synced: bool,
    /// Whether servers may have gone since the links were last cleaned up.
    stale: bool,
    /// Whether a batch of records is being rewritten with this leader's uuid.
    vouching: bool,
    /// The timer of the next deadline. Kept while the deadline does not change: there are
    /// thousands of events.
    tick: Option<Sleep>,
    /// The number of rounds after which the pipeliner has listed the servers.
    listed: u64,
}

/// Why a leader's duties ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Its election key is gone, or etcd has a new history.
    Deposed,
    /// It does not reach these servers, though others do: another candidate should lead.
    Resigned(Vec<Uuid>),
}

/// Leads until it is deposed or must resign. Dropping the future stops all duties at once.
pub(crate) async fn lead(context: LeaderContext) -> Exit {
    log::info!("leading the mesh, in term {}", context.term);
    // Read before the servers: a published key without a server is stale.
    let found = takeover::published(&context).await;
    let mut servers = context.etcd.watch(Target::Prefix(context.keys.servers()));
    let mut leader = Leader {
        registry: Registry::new(
            context.me,
            &context.config,
            found,
            fastrand::u64(..),
            Instant::now(),
        ),
        links: Links::new(context.dialer.clone(), context.config.probe_timeout),
        context,
        work: FuturesUnordered::new(),
        synced: false,
        stale: false,
        vouching: false,
        tick: None,
        listed: 0,
    };
    let end = leader.run(&mut servers).await;
    log::debug!("the duties end: {end:?}");
    end
}

impl Leader {
    async fn run(&mut self, servers: &mut Watch) -> Exit {
        loop {
            let input = self.next(servers).await;
            if let ControlFlow::Break(end) = self.handle_input(input) {
                return end;
            }
            // The consequences of events are computed once per batch.
            for _ in 0..BATCH {
                let Some(input) = self.next(servers).now_or_never() else {
                    break;
                };
                if let ControlFlow::Break(end) = self.handle_input(input) {
                    return end;
                }
            }
            self.after_batch();
            // The links' tasks run on this thread as well.
            executor::yield_now().await;
        }
    }

    async fn next(&mut self, servers: &mut Watch) -> Input {
        let tick = self.synced.then(|| timer::coarse(self.registry.deadline()));
        if self.tick.as_ref().map(Sleep::deadline) != tick {
            self.tick = tick.map(timer::sleep_until);
        }
        futures::select_biased! {
            change = servers.next().fuse() => Input::Changed(change),
            result = self.work.select_next_some() => Input::Output(result),
            () = pin!(timer::end_of(self.tick.as_mut()).fuse()) => Input::Tick,
        }
    }

    fn handle_input(&mut self, input: Input) -> ControlFlow<Exit> {
        match input {
            // Nothing that this leader knows holds any more; the next leader starts from scratch.
            Input::Changed(Change::NewHistory) => return ControlFlow::Break(Exit::Deposed),
            Input::Changed(change) => self.changed(change),
            Input::Output(result) => return self.handle_result(result),
            Input::Tick => self.tick(),
        }
        ControlFlow::Continue(())
    }

    /// Runs after each batch: drops the links of servers that are gone, and does work
    /// that is not urgent.
    fn after_batch(&mut self) {
        for (uuid, broken) in self.links.newly_opened() {
            // It may have been opened for a server that is gone since.
            self.stale |= self.registry.endpoint(uuid).is_none();
            self.work
                .push(broken.map(move |()| Output::LinkBroken(uuid)).boxed());
        }
        if !self.synced {
            return;
        }
        if std::mem::take(&mut self.stale) {
            self.links
                .keep_only(|uuid| self.registry.endpoint(uuid).is_some());
        }
        self.vouch();
        self.list_servers();
    }

    fn tick(&mut self) {
        self.registry.set_verbosity(log::max_level());
        let actions = self.registry.tick(Instant::now());
        self.perform(actions);
    }

    /// Logs the pipeliner's list once per period, when the round is over and its writes are done.
    fn list_servers(&mut self) {
        let rounds = self.registry.rounds();
        if self.listed < rounds && !self.registry.is_busy() {
            self.listed = rounds;
            for line in pipeliner::list(self.registry.reachable(), log::max_level()) {
                write_line("pipeliner", &line);
            }
        }
    }

    fn event(&mut self, event: Event) {
        match &event {
            Event::ProbeFailed { .. } => self.context.metrics.failed.increment(),
            Event::Unsent { .. } => self.context.metrics.unsent.increment(),
            _ => {}
        }
        self.stale |= matches!(event, Event::Deleted { .. } | Event::Invalid { .. });
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
                self.synced = true;
                self.stale = true;
                let actions = self.registry.listed();
                self.perform(actions);
                self.report_predecessor_exit();
            }
            Change::Stale { reason } => {
                log::debug!("the watch on the servers was interrupted: {reason}");
            }
            Change::NewHistory => {}
        }
    }

    fn read(&self, kv: KeyValue) -> Event {
        let name = kv
            .key
            .strip_prefix(&self.context.keys.servers())
            .unwrap_or(&kv.key);
        match Record::from_entry(name, &kv.value) {
            Ok(record) => Event::Registered {
                record,
                modified: kv.modified,
                lease: kv.lease,
            },
            Err(broken) => Event::Invalid {
                key: kv.key,
                reason: broken.to_string(),
            },
        }
    }

    /// Determines why a record is gone.
    fn explain(&mut self, gone: KeyValue) {
        let name = gone
            .key
            .strip_prefix(&self.context.keys.servers())
            .unwrap_or(&gone.key);
        let Ok(record) = Record::from_entry(name, &gone.value) else {
            return self.event(Event::InvalidRemoved { key: gone.key });
        };
        let context = self.context.clone();
        self.work
            .push(async move { Output::Event(writes::explain_deletion(&context, record.uuid, &gone).await) }.boxed());
    }

    /// Logs how the previous leader ended if it left no tombstone; no other peer will.
    fn report_predecessor_exit(&mut self) {
        let Some(predecessor) = self.context.predecessor.take() else {
            return;
        };
        let Some(uuid) = predecessor
            .uuid
            .filter(|uuid| self.registry.endpoint(*uuid).is_none())
        else {
            return;
        };
        let context = self.context.clone();
        self.work.push(
            async move {
                match writes::end_of_predecessor(&context, uuid, predecessor.lease).await {
                    Ok(Some(reason)) => {
                        log::info!(target: "registry", "Deleted server {uuid} because {reason}");
                    }
                    Ok(None) => {}
                    Err(error) => context
                        .etcd
                        .log_failure("reading how the previous leader ended", &error),
                }
                Output::Nothing
            }
            .boxed(),
        );
    }

    fn handle_result(&mut self, result: Output) -> ControlFlow<Exit> {
        match result {
            Output::Event(event) => self.event(event),
            Output::LinkBroken(uuid) => self.prove_gone(uuid),
            Output::Vouched(written) => return self.vouched(written),
            Output::Duties(end) => return ControlFlow::Break(end),
            Output::Nothing => {}
        }
        ControlFlow::Continue(())
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Log(line) => write_line("registry", &line),
                Action::Probe {
                    uuid,
                    endpoint,
                    token,
                    fresh,
                } => {
                    self.context.metrics.probes.increment();
                    let probing = self.links.probe(uuid, endpoint, fresh);
                    self.work.push(
                        probing
                            .map(move |answer| {
                                Output::Event(match answer {
                                    Ok(digest) => Event::ProbeOk {
                                        uuid,
                                        token,
                                        digest,
                                    },
                                    Err(ProbeError {
                                        reason,
                                        local: true,
                                    }) => Event::Unsent {
                                        uuid,
                                        token,
                                        reason,
                                    },
                                    Err(ProbeError { reason, .. }) => Event::ProbeFailed {
                                        uuid,
                                        token,
                                        reason,
                                    },
                                })
                            })
                            .boxed(),
                    );
                }
                Action::Configure {
                    record,
                    modified,
                    lease,
                } => {
                    let uuid = record.uuid;
                    self.write(
                        uuid,
                        writes::configure(self.context.clone(), record, modified, lease),
                    );
                }
                Action::Remove(removal) => {
                    let (uuid, metrics) = (removal.uuid, Arc::clone(&self.context.metrics));
                    let removing = writes::remove(self.context.clone(), removal);
                    let removing = removing.inspect(move |written| {
                        if written.stands().is_some() {
                            metrics.removals.increment();
                        }
                    });
                    self.write(uuid, removing);
                }
                Action::Ask {
                    uuid,
                    token,
                    witnesses,
                    time,
                } => self.ask(uuid, token, witnesses, time),
                Action::Resign { unreached } => {
                    let resigning = takeover::may_resign(self.context.clone(), unreached);
                    let done = |unreached: Option<_>| {
                        unreached.map_or(Output::Nothing, |of| Output::Duties(Exit::Resigned(of)))
                    };
                    self.work.push(resigning.map(done).boxed());
                }
                Action::Withdraw { uuid, server } => {
                    let withdrawing = takeover::withdraw(self.context.clone(), uuid, server);
                    self.work.push(
                        withdrawing
                            .map(|deposed| {
                                if deposed {
                                    Output::Duties(Exit::Deposed)
                                } else {
                                    Output::Nothing
                                }
                            })
                            .boxed(),
                    );
                }
            }
        }
    }

    fn ask(&mut self, uuid: Uuid, token: Token, witnesses: Vec<(Uuid, String)>, time: Duration) {
        for witness in witnesses {
            let of = witness.0;
            let asking = self.links.ask_about(uuid, witness, time);
            let testified = move |testimony| {
                Output::Event(Event::Testified {
                    uuid,
                    token,
                    witness: of,
                    testimony,
                })
            };
            self.work.push(asking.map(testified).boxed());
        }
    }

    fn write(
        &mut self,
        uuid: Uuid,
        writing: impl Future<Output = writes::WriteOutcome> + Send + 'static,
    ) {
        self.work.push(
            writing
                .map(move |written| match written {
                    writes::WriteOutcome::Deposed => Output::Duties(Exit::Deposed),
                    written => Output::Event(Event::WriteDone {
                        uuid,
                        stands: written.stands(),
                    }),
                })
                .boxed(),
        );
    }

    fn prove_gone(&mut self, uuid: Uuid) {
        let Some(endpoint) = self.registry.endpoint(uuid) else {
            return;
        };
        let proof = self.links.prove_gone(uuid, endpoint);
        self.work.push(
            proof
                .map(move |gone| {
                    if gone {
                        Output::Event(Event::ProcessGone { uuid })
                    } else {
                        Output::Nothing
                    }
                })
                .boxed(),
        );
    }

    /// Rewrites the next batch of records that name another leader.
    fn vouch(&mut self) {
        if self.vouching {
            return;
        }
        let batch = self.registry.take_unvouched(takeover::BATCH);
        if !batch.is_empty() {
            self.vouching = true;
            self.work.push(
                takeover::vouch(self.context.clone(), batch)
                    .map(Output::Vouched)
                    .boxed(),
            );
        }
    }

    fn vouched(&mut self, batch: Vec<(Uuid, writes::WriteOutcome)>) -> ControlFlow<Exit> {
        self.vouching = false;
        for (uuid, written) in batch {
            if written == writes::WriteOutcome::Deposed {
                return ControlFlow::Break(Exit::Deposed);
            }
            self.event(Event::WriteDone {
                uuid,
                stands: written.stands(),
            });
        }
        ControlFlow::Continue(())
    }
}

fn write_line(target: &str, line: &Line) {
    if line.critical {
        log::error!(target: target, critical = true; "{}", line.text);
    } else {
        log::log!(target: target, line.level, "{}", line.text);
    }
}
