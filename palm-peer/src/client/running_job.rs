//! Runs a job at its client: pulls messages, sends them along their routes, and
//! handles the answers.

use super::job_links::{LinkEvent, Links};
use crate::{
    client::{mesh::Mesh, replies::Reply},
    io::{
        spans::{Attempts, Span},
        timer::{self, Sleep},
    },
    sync::lock,
};
use bytes::Bytes;
use futures::{
    FutureExt as _, Stream, StreamExt as _, channel::mpsc, future::BoxFuture,
    stream::FuturesUnordered,
};
use palm_proto::{
    job::{Action, Counts, Event, Job, Limits, MessageError, Outcome, Path, Routes},
    types::{
        message::{CallErrorKind, CallFailure, Request, Rerouted},
        meta::Meta,
    },
};
use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long results that are ready are handed out before the job looks what else has happened.
const SLICE: Duration = Duration::from_micros(200);

/// A message that waits for links to open.
struct Waiting {
    idx: u64,
    payload: Bytes,
    deadline: Instant,
    path: Arc<Path>,
}

/// A running job: a stream of results, which drives the job while it is polled.
pub(crate) struct RunningJob<S> {
    mesh: Arc<Mesh>,
    id: Uuid,
    pipeline: Vec<String>,
    job: Job,
    input: Option<S>,
    answers: mpsc::UnboundedReceiver<Reply>,
    changes: mpsc::Receiver<()>,
    /// The version of the directory that the instances were read from.
    directory: u64,
    routes: Routes,
    /// The request of the last message, of which the next one takes what is the same.
    request: Request,
    /// The stages of each instance that is published or still has a link.
    stages: HashMap<Uuid, Vec<usize>>,
    opening: FuturesUnordered<BoxFuture<'static, (Waiting, Result<(), MessageError>)>>,
    links: Links,
    timer: Option<(Instant, Sleep)>,
    progress: Arc<Mutex<Counts>>,
    /// When was last looked for events: reading the clock for each message takes a part of its time.
    now: Instant,
    span: Span,
    attempts: Attempts,
}

impl<S> Drop for RunningJob<S> {
    fn drop(&mut self) {
        self.mesh.jobs.close(self.id);
    }
}

impl<S: Stream<Item = Bytes> + Unpin> RunningJob<S> {
    /// Starts a job. Fails when a stage has no reachable instance.
    pub(crate) fn start(
        mesh: Arc<Mesh>,
        pipeline: Vec<String>,
        limits: Limits,
        meta: Meta,
        input: S,
    ) -> Result<Self, CallFailure> {
        let directory = mesh.directory().version();
        let able: Vec<_> = pipeline
            .iter()
            .map(|target| mesh.resolve(target))
            .collect::<Result<_, _>>()?;
        let mut routes = Routes::new(fastrand::u64(..)).preferring(mesh.zone.clone());
        routes.set_able(able);
        let id = Uuid::new_v4();
        let mut request = Request::call(String::new());
        request.pipeline = pipeline.as_slice().into();
        request.client = Some(mesh.uuid);
        request.job = Some(id);
        request.meta = meta;
        request.report = pipeline.len() > 1;
        let span = Span::job(id, &pipeline);
        let mut running = Self {
            answers: mesh.jobs.open(id),
            changes: mesh.changes(),
            links: Links::new(Arc::clone(&mesh)),
            mesh,
            id,
            pipeline,
            job: Job::new(limits, fastrand::u64(..)),
            input: Some(input),
            directory,
            routes,
            request,
            stages: HashMap::new(),
            opening: FuturesUnordered::new(),
            timer: None,
            progress: Arc::default(),
            now: Instant::now(),
            span,
            attempts: Attempts::default(),
        };
        running.links_changed();
        Ok(running)
    }

    /// How the job is getting on, to be read while it runs.
    pub(crate) fn progress(&self) -> Arc<Mutex<Counts>> {
        Arc::clone(&self.progress)
    }

    fn event(&mut self, event: Event) {
        self.job.handle(event, self.now);
        self.perform();
    }

    /// Carries out actions, and those that follow from them, in a loop instead of by recursion: as
    /// many may follow as messages wait.
    fn perform(&mut self) {
        while let Some(Action::Send {
            idx,
            payload,
            deadline,
            avoid,
        }) = self.job.next_action()
        {
            let path = self
                .mesh
                .check_size(&payload)
                .map_err(|failure| MessageError {
                    failure,
                    stage: 0,
                    server: None,
                })
                .and_then(|()| self.choose_path(avoid));
            let sent = match path {
                Ok(path) => self.send(Waiting {
                    idx,
                    payload,
                    deadline,
                    path,
                }),
                Err(fault) => Some(Event::NotSent { idx, fault }),
            };
            if let Some(event) = sent {
                self.job.handle(event, self.now);
            }
        }
    }

    /// Picks an instance for each stage: of two at random, the one with fewer of
    /// this job's messages.
    fn choose_path(&mut self, avoid: Option<Uuid>) -> Result<Arc<Path>, MessageError> {
        let job = &self.job;
        let path = self
            .routes
            .choose(avoid, |instance| job.load(instance), self.now);
        path.map_err(|stage| MessageError {
            failure: CallFailure::new(
                CallErrorKind::NoSuchServer,
                format!("no instance of {} can be reached now", self.pipeline[stage]),
            ),
            stage,
            server: None,
        })
    }

    /// Sends a message. Returns the outcome, if it is known at once.
    fn send(&mut self, waiting: Waiting) -> Option<Event> {
        if self.links.are_open(&waiting.path.route) {
            return Some(self.post(&waiting));
        }
        let mesh = Arc::clone(&self.mesh);
        self.opening
            .push(async move { open_links(&mesh, waiting).await }.boxed());
        None
    }

    fn opened(&mut self, waiting: &Waiting) {
        let route = &waiting.path.route;
        if !self.links.are_open(route) {
            for instance in route.iter() {
                self.links.watch(*instance);
            }
            self.links_changed();
        }
        // A link that broke a moment ago could not carry the answer, and its end may have been
        // reported already.
        let missing = route
            .iter()
            .position(|instance| !self.links.keeps(*instance));
        let event = match missing {
            Some(stage) => Event::NotSent {
                idx: waiting.idx,
                fault: MessageError {
                    failure: CallFailure::new(
                        CallErrorKind::Unreachable,
                        "the connection is broken",
                    ),
                    stage,
                    server: Some(route[stage]),
                },
            },
            None => self.post(waiting),
        };
        self.event(event);
    }

    /// Sends a message, the end of whose links will be reported.
    fn post(&mut self, waiting: &Waiting) -> Event {
        let (idx, route) = (waiting.idx, Arc::clone(&waiting.path.route));
        let first = &waiting.path.instances[0];
        let (target, place) = (&self.pipeline[0], (first.uuid, &*first.endpoint));
        let span = self
            .span
            .in_scope(|| Span::attempt(target, place, Some(idx)));
        let request = &mut self.request;
        span.inject(&mut request.meta);
        request.route.clear();
        request.route.extend_from_slice(&route);
        request.idx = Some(idx);
        if request.report {
            request.avoid.clear();
            request.avoid.extend_from_slice(self.routes.unreachable());
        }
        request.give_time(waiting.deadline.saturating_duration_since(self.now));
        self.mesh.jobs.register(self.id, idx);
        let posted = match self.links.open(route[0]) {
            Some(link) => link.post(request, waiting.payload.clone()).map(drop),
            None => Err(CallFailure::new(
                CallErrorKind::Unreachable,
                "the connection is broken",
            )),
        };
        match posted {
            Ok(()) => {
                self.attempts.sent(idx, span);
                Event::Sent { idx, route }
            }
            Err(failure) => {
                span.failed(failure.kind);
                self.mesh.jobs.unregister(self.id, idx);
                Event::NotSent {
                    idx,
                    fault: MessageError {
                        failure,
                        stage: 0,
                        server: Some(route[0]),
                    },
                }
            }
        }
    }

    /// Opens missing links, and collects the instances that messages can be sent to at once.
    fn links_changed(&mut self) {
        self.links
            .prepare(self.routes.able().map(|(_, instance)| instance));
        let links = &self.links;
        self.routes
            .set_open(|instance| links.open(instance).is_some());
        for (stage, instance) in self.routes.able() {
            let stages = self.stages.entry(instance.uuid).or_default();
            if !stages.contains(&stage) {
                stages.push(stage);
            }
        }
    }

    fn handle_reply(&mut self, reply: Reply) {
        let Some(idx) = reply.answer.idx else { return };
        if let Some(rerouted) = reply.answer.rerouted {
            return self.rerouted(idx, reply.answer.server, rerouted);
        }
        let mut reply = reply;
        let ending: Outcome = match reply.answer.error.take() {
            None => Ok(reply.into_answer()),
            Some(failure) => Err(MessageError {
                failure,
                stage: reply.answer.stage.unwrap_or(0),
                server: Some(reply.answer.server),
            }),
        };
        self.attempts.ended(idx, ending.is_ok(), failure(&ending));
        self.event(Event::Answered { idx, ending });
    }

    /// Handles the report of a stage that rerouted a message. New messages avoid that
    /// path for a while.
    fn rerouted(&mut self, idx: u64, by: Uuid, rerouted: Rerouted) {
        self.routes.rerouted(by, rerouted.from, self.now);
        let sent = self.job.sent_at(idx);
        self.event(Event::Rerouted { idx, rerouted });
        let Some(instance) = rerouted.to else { return };
        if !self.links.tells_of(instance) {
            // The end of its link was reported before the message went there.
            self.event(Event::Gone {
                instance,
                stages: Vec::new(),
            });
        } else if sent.is_some_and(|sent| self.links.ended_since(instance, sent)) {
            // It may have answered over a connection that has ended since.
            let lost = Rerouted {
                stage: rerouted.stage,
                from: instance,
                to: None,
            };
            self.event(Event::Rerouted {
                idx,
                rerouted: lost,
            });
        }
    }

    /// Handles a change of the directory: new instances get messages at once; the liveness
    /// of instances that are no longer published is checked. A leaving server answers
    /// until it is done.
    fn directory_changed(&mut self) {
        let uuids = |routes: &Routes| routes.able().map(|(_, instance)| instance.uuid).collect();
        let before: HashSet<Uuid> = uuids(&self.routes);
        self.directory = self.mesh.directory().version();
        let able = self.pipeline.iter();
        self.routes
            .set_able(able.map(|target| self.mesh.resolve(target).unwrap_or_default()));
        let after: HashSet<Uuid> = uuids(&self.routes);
        self.links_changed();
        for instance in before.difference(&after) {
            self.event(Event::Leaving(*instance));
            self.links.question(*instance);
        }
        self.forget_stages();
    }

    /// Handles all that has happened, and sends what may be sent. Returns whether there was
    /// anything.
    fn look(&mut self, cx: &mut Context<'_>) -> bool {
        self.now = Instant::now();
        let mut any = self.take_in_all(cx);
        any |= self.pull(cx);
        any |= self.let_time_pass(cx);
        let busy = self.job.is_busy();
        self.links.set_busy(busy);
        *lock(&self.progress) = self.job.counts();
        any
    }

    /// Handles all pending events. Returns whether there were any.
    fn take_in_all(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Poll::Ready(Some(reply)) = self.answers.poll_next_unpin(cx) {
            self.handle_reply(reply);
            any = true;
        }
        while let Poll::Ready(Some(())) = self.changes.poll_next_unpin(cx) {
            any = true;
            if self.directory != self.mesh.directory().version() {
                self.directory_changed();
            }
        }
        while let Poll::Ready(Some((waiting, opened))) = self.opening.poll_next_unpin(cx) {
            any = true;
            match opened {
                Ok(()) => self.opened(&waiting),
                Err(fault) => self.event(Event::NotSent {
                    idx: waiting.idx,
                    fault,
                }),
            }
        }
        while let Poll::Ready(news) = self.links.poll_news(cx) {
            any = true;
            self.links_changed();
            match news {
                // A leaving server is not a loss: messages that were routed through it
                // continue elsewhere.
                LinkEvent::Open | LinkEvent::ClosedByGoodbye => {}
                LinkEvent::Gone(instance) => {
                    let stages = self.stages.get(&instance).cloned().unwrap_or_default();
                    self.event(Event::Gone { instance, stages });
                }
                // Only messages that are known to have gone there: it may not have
                // taken over others.
                LinkEvent::Unreachable(instance) => self.event(Event::Gone {
                    instance,
                    stages: Vec::new(),
                }),
            }
            self.forget_stages();
        }
        any
    }

    /// Removes the stages of all instances that are neither linked nor published: nothing more is
    /// reported about them.
    fn forget_stages(&mut self) {
        self.stages
            .retain(|instance, _| self.links.tells_of(*instance));
        self.links.forget_ended();
    }

    fn let_time_pass(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.job.deadline() else {
            return false;
        };
        if self.timer.as_ref().is_none_or(|(at, _)| *at != deadline) {
            self.timer = Some((deadline, timer::sleep_until(deadline)));
        }
        let due = self
            .timer
            .as_mut()
            .is_some_and(|(_, sleep)| sleep.poll_unpin(cx).is_ready());
        if due {
            self.timer = None;
            self.now = Instant::now();
            self.job.tick(self.now);
            self.perform();
        }
        due
    }

    /// Pulls messages while the window has room and the input has messages.
    fn pull(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while self.job.may_pull() {
            let Some(input) = &mut self.input else { break };
            match input.poll_next_unpin(cx) {
                Poll::Ready(Some(payload)) => self.event(Event::Pulled(payload)),
                Poll::Ready(None) => {
                    self.input = None;
                    self.event(Event::InputEnded);
                }
                Poll::Pending => break,
            }
            any = true;
        }
        any
    }
}

impl<S: Stream<Item = Bytes> + Unpin> Stream for RunningJob<S> {
    type Item = (u64, Outcome);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // To hand out a result takes less time than to look for all that may have happened.
        if self.now.elapsed() > SLICE {
            self.look(cx);
        }
        loop {
            if let Some((idx, ending)) = self.job.next_result() {
                self.mesh.jobs.discard(self.id, idx);
                self.attempts.ended(idx, true, failure(&ending));
                return Poll::Ready(Some((idx, ending)));
            }
            if self.job.is_over() {
                return Poll::Ready(None);
            }
            if !self.look(cx) {
                return Poll::Pending;
            }
        }
    }
}

fn failure(ending: &Outcome) -> Option<&CallFailure> {
    ending.as_ref().err().map(|error| &error.failure)
}

/// Returns whether the client has a link to each instance of a route: any stage may answer, over
/// its own connection.
async fn open_links(mesh: &Mesh, waiting: Waiting) -> (Waiting, Result<(), MessageError>) {
    let mut opened = Ok(());
    for (stage, instance) in waiting.path.instances.iter().enumerate() {
        if let Err(error) = mesh.link_to(instance, waiting.deadline).await {
            let failure = CallFailure::new(
                CallErrorKind::Unreachable,
                format!("{}: {error}", instance.endpoint),
            );
            opened = Err(MessageError {
                failure,
                stage,
                server: Some(instance.uuid),
            });
            break;
        }
    }
    (waiting, opened)
}

#[cfg(test)]
mod tests;
