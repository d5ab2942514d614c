//! The dispatch loop: handles requests, runs functions on the caller's executor, sends answers.

mod running;

use self::running::leaving;
use super::{
    active_calls::ActiveCalls,
    clients::GreetedClients,
    definition::FunctionOptions,
    forward::Forwarder,
    functions::{self, FunctionResult},
    header::{self, Header},
    liveness_check,
    parcel::{Notice, Parcel, ReplyTo},
    slot::SlotSender,
    state::ServerState,
    task::{Callee, NextStage, Task},
};
use crate::{
    ingress::{Connection, Event, Receiver, Sender},
    io::{
        executor,
        spans::Span,
        timer::{self, Sleep},
        zmq::Frames,
    },
    membership::watchdog::{LivenessCheck, LivenessSender},
    server::message::Message,
};
use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _,
    channel::mpsc,
    future::{BoxFuture, Fuse, FusedFuture},
    stream::FuturesUnordered,
};
use palm_proto::{
    limits::{
        fair_queue::Amount,
        log_throttle::LogThrottle,
        run_queue::{Lane, RunQueue},
    },
    types::message::{Answer, BadHeader, CallErrorKind, CallFailure, Incoming, Request},
};
use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// The longest timeout of a request.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How long the loop runs before it yields to other tasks on the same executor, such as the
/// connections that deliver the next request: otherwise a flood of computing functions
/// would monopolise it.
const SLICE: Duration = Duration::from_micros(200);

/// One server's loop.
pub(crate) struct Dispatcher {
    state: Arc<ServerState>,
    sender: Sender,
    running: ActiveCalls,
    queue: RunQueue<Connection, Task>,
    /// Given to functions, to report that they left their places.
    left_tx: SlotSender,
    left_rx: mpsc::UnboundedReceiver<Lane>,
    /// When to drop queued requests whose deadline has passed.
    sweep: Fuse<Sleep>,
    /// Sends that met a full queue. They must not be cancelled, and must not delay others.
    pending_sends: FuturesUnordered<BoxFuture<'static, ()>>,
    /// Forwards messages to other servers.
    forwarder: Forwarder,
    clients: GreetedClients,
    /// The functions whose failures were logged.
    failures: LogThrottle<(String, CallErrorKind)>,
    /// Where compact headers are written.
    header: Vec<u8>,
    /// When the last message arrived, or the last function ended: reading the clock takes a part of
    /// the time of a short call.
    now: Instant,
    /// When the loop last yielded.
    yielded: Instant,
    liveness: mpsc::UnboundedReceiver<LivenessCheck>,
    receiver: Receiver,
}

impl Dispatcher {
    /// Creates a loop that answers over `sender` the requests from `receiver`. Returns it with the
    /// channel of its liveness checks.
    pub(crate) fn new(
        state: Arc<ServerState>,
        sender: Sender,
        receiver: Receiver,
    ) -> (Self, LivenessSender) {
        let (tx, liveness) = mpsc::unbounded();
        let (left_tx, left_rx) = mpsc::unbounded();
        let dispatcher = Self {
            running: ActiveCalls::new(),
            queue: RunQueue::new(
                Amount {
                    items: state.config.max_in_flight,
                    bytes: state.config.max_held,
                },
                Amount {
                    items: state.config.max_queued,
                    bytes: state.config.max_queued_bytes,
                },
                state.function_limits(),
            ),
            left_tx,
            left_rx,
            forwarder: Forwarder::new(
                Arc::clone(&state.relay),
                Amount {
                    items: state.config.max_queued,
                    bytes: state.config.max_queued_bytes,
                },
            ),
            sweep: Fuse::terminated(),
            state,
            sender,
            pending_sends: FuturesUnordered::new(),
            clients: GreetedClients::new(),
            failures: LogThrottle::default(),
            header: Vec::new(),
            now: Instant::now(),
            yielded: Instant::now(),
            liveness,
            receiver,
        };
        (dispatcher, tx)
    }

    /// Runs until `until` ends, and returns what that returns.
    pub(crate) async fn run<T>(
        &mut self,
        mut until: &mut (impl FusedFuture<Output = T> + Unpin),
    ) -> T {
        loop {
            futures::select_biased! {
                ended = until => return ended,
                () = self.step().fuse() => {}
            }
        }
    }

    /// Waits for the next event, and handles it. Cancel-safe.
    async fn step(&mut self) {
        if self.is_slice_over() {
            executor::yield_now().await;
            self.now = Instant::now();
            self.yielded = self.now;
        }
        futures::select_biased! {
            check = self.liveness.select_next_some() => liveness_check::answer(check),
            (task, result) = self.running.next().fuse() => {
                self.now = Instant::now();
                self.end(task, result);
            }
            lane = self.left_rx.select_next_some() => {
                self.queue.left(lane);
                self.start_waiting();
            }
            notice = self.forwarder.next().fuse() => self.handle_notice(notice),
            () = self.pending_sends.select_next_some() => {}
            () = &mut self.sweep => self.drop_overdue(),
            () = &mut self.clients.expiry => self.clients.expire(),
            event = self.receiver.recv().fuse() => self.handle_events(event),
        }
        self.sender.flush();
    }

    fn is_slice_over(&self) -> bool {
        self.now.saturating_duration_since(self.yielded) > SLICE
    }

    /// Runs until all accepted requests are answered, at least for `min` and at most for `max`.
    pub(crate) async fn drain(&mut self, min: Duration, max: Duration) {
        let start = Instant::now();
        self.run(&mut timer::sleep_until(start + min).fuse()).await;
        let mut end = timer::sleep_until(start + max).fuse();
        while !self.is_idle() {
            futures::select_biased! {
                () = end => return,
                () = self.step().fuse() => {}
            }
        }
    }

    /// Stops the functions that still run, and answers all requests that are left with an error.
    /// Returns how many there were.
    pub(crate) fn give_up(&mut self) -> usize {
        let pending = self.running.len() + self.queue.waiting().items;
        for waiting in self.queue.take_if(|_| true) {
            self.reject(&waiting, leaving());
        }
        self.queue_changed();
        self.now = Instant::now();
        let text = "the server stopped before the function ended";
        let failure = CallFailure::new(CallErrorKind::Unreachable, text);
        for task in self.running.stop() {
            self.end(task, Err(failure.clone()));
        }
        pending
    }

    /// Sends a goodbye to the clients that asked for one: all requests are answered or forwarded,
    /// so the end of the connection is no loss. Messages that they sent before they got it are
    /// still handled, until they acknowledge it.
    pub(crate) fn send_goodbye(&mut self) {
        let header = Answer::goodbye(self.state.uuid);
        for connection in self.clients.table.start_goodbye() {
            let to = ReplyTo::new(connection, false);
            self.send(&to, &header, Bytes::new());
        }
        self.sender.flush();
    }

    /// Returns how many functions run or wait.
    pub(crate) fn pending(&self) -> usize {
        self.running.len() + self.queue.waiting().items + self.forwarder.waiting()
    }

    /// Returns how many clients have not acknowledged the goodbye yet.
    pub(crate) fn awaiting_ack(&self) -> usize {
        self.clients.table.awaiting_ack()
    }

    fn is_idle(&self) -> bool {
        self.pending() == 0 && self.awaiting_ack() == 0 && self.pending_sends.is_empty()
    }

    /// Handles this event and those that have come besides, for a slice of time: looking for
    /// everything else that may have happened takes longer than a short call.
    fn handle_events(&mut self, first: Event) {
        let mut next = Some(first);
        while let Some(event) = next {
            self.handle_event(event);
            if self.is_slice_over() {
                break;
            }
            // The next step looks again, and is woken by what comes later.
            next = self.receiver.recv().now_or_never();
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Disconnected(connection) => self.clients.table.disconnected(&connection),
            Event::Message(connection, frames) => self.handle_message(connection, frames),
        }
    }

    fn handle_message(&mut self, connection: Connection, mut frames: Frames) {
        self.now = Instant::now();
        let delimiter = frames.len() > 1 && frames[0].is_empty();
        if delimiter {
            frames.remove(0);
        }
        let mut to = ReplyTo::new(connection, delimiter);
        let mut frames = frames.into_iter();
        let header = frames.next().unwrap_or_default();
        let payload = frames.next().unwrap_or_default();
        match header::read(&to.connection, &header) {
            Ok(Header::Registration) => {}
            Ok(Header::Message(
                Incoming::Hello {
                    client,
                    bye,
                    identify,
                },
                _,
            )) => {
                let held = self.clients.table.greeted(
                    (!identify).then_some(client),
                    &to.connection,
                    bye,
                    Instant::now(),
                );
                self.send(&to, &Answer::greeting(self.state.uuid), Bytes::new());
                for frames in held {
                    self.send_frames(&to.connection, frames);
                }
                // A client that connects after the goodbye must get it too, or its
                // messages would be lost.
                if self.clients.table.said_goodbye() {
                    self.send_goodbye();
                }
            }
            Ok(Header::Message(Incoming::GoodbyeAck, _)) => {
                self.clients.table.goodbye_acknowledged(&to.connection);
            }
            Ok(Header::Message(Incoming::Request(request), template)) => {
                to.repeat(request.job, request.idx, request.stage);
                to.meta = request.meta.clone();
                to.template = template;
                if request.stage > 0 {
                    to.client = request.client;
                    to.delimiter = false;
                }
                let too_many = frames.next().is_some().then(|| {
                    CallFailure::new(
                        CallErrorKind::BadMessage,
                        "a message has two frames, a header and a payload",
                    )
                });
                let started = too_many.map_or_else(|| self.start(&mut to, request, payload), Err);
                if let Err(failure) = started {
                    self.answer(&to, Err(failure));
                }
            }
            Err(BadHeader {
                message,
                job,
                idx,
                stage,
            }) => {
                to.repeat(job, idx, stage.unwrap_or(0));
                self.answer(
                    &to,
                    Err(CallFailure::new(CallErrorKind::BadMessage, message)),
                );
            }
        }
    }

    /// Starts, queues or at once answers a request; an error means that no function ran.
    fn start(
        &mut self,
        to: &mut ReplyTo,
        request: Request,
        payload: Bytes,
    ) -> Result<(), CallFailure> {
        let name = self.state.function_meant(&request)?;
        let target = self
            .callee(name)
            .map_or_else(|| Target::BuiltIn(name.to_owned()), Target::Function);
        let max = self.state.config.max_payload;
        if payload.len() > max {
            let text = format!("a payload of {} bytes, {max} at most", payload.len());
            return Err(CallFailure::new(CallErrorKind::TooLarge, text));
        }
        if request.goes_on() {
            // Checked before the function runs, which would otherwise run in vain.
            self.forwarder.check_room()?;
        }
        let time = request
            .timeout_ms
            .map_or(self.state.config.timeout, Duration::from_millis)
            .min(LONGEST);
        let deadline = self.now + time;
        if self.state.leaving.load(Ordering::Acquire) && request.stage > 0 {
            // The stages before have run: a rejection would run them again.
            self.forwarder.pass_on(
                Parcel {
                    to: to.clone(),
                    request,
                    payload,
                    deadline,
                },
                true,
            );
            return Ok(());
        }
        if let Target::Function(Callee {
            stats: Some(stats), ..
        }) = &target
        {
            to.span = Span::stage(&self.state.name, stats.name(), &request);
        }
        let message = Message {
            payload,
            job: request.job,
            idx: request.idx,
            stage: request.stage,
            cache: request.cache.clone(),
            meta: request.meta.clone(),
            deadline,
            relay: Some(Arc::clone(&self.state.relay)),
            slot: None,
        };
        let onward = request.goes_on().then_some(NextStage { request, deadline });
        match target {
            Target::Function(callee) => {
                let client = to
                    .client
                    .and_then(|client| self.clients.table.connection(client));
                let from = client.unwrap_or(&to.connection).clone();
                self.admit(Task {
                    from,
                    to: to.clone(),
                    callee,
                    message,
                    onward,
                })
            }
            Target::BuiltIn(name) => {
                let result = functions::built_in(&self.state, &name, message)
                    .unwrap_or_else(|| Err(self.state.no_such_function(&name)));
                self.complete(
                    to.clone(),
                    functions::at_most(max, result.map(Into::into)),
                    onward,
                );
                Ok(())
            }
        }
    }

    /// Returns the function of this name, if it is the program's, or runs as those do.
    fn callee(&self, name: &str) -> Option<Callee> {
        if let Some(counted) = self.state.functions.get(name) {
            return Some(Callee {
                function: Arc::clone(&counted.function),
                options: counted.options,
                lane: counted.lane,
                stats: Some(Arc::clone(&counted.stats)),
            });
        }
        Some(Callee {
            function: functions::built_in_that_waits(&self.state, name)?,
            options: FunctionOptions {
                only_waits: true,
                ..FunctionOptions::default()
            },
            lane: Lane::default(),
            stats: None,
        })
    }

    /// Completes a stage: its result goes to the next one, or to the client.
    fn complete(&mut self, mut to: ReplyTo, result: FunctionResult, onward: Option<NextStage>) {
        let (answer, NextStage { request, deadline }) = match (result, onward) {
            (Ok(answer), Some(onward)) => (answer, onward),
            (result, _) => return self.answer(&to, result),
        };
        let (mut request, (payload, meta)) = (request, answer.into_parts());
        if let Err(failure) = functions::add_meta(&mut request.meta, meta) {
            return self.answer(&to, Err(failure));
        }
        // The stage ends here, not when the message is known to have arrived.
        mem::replace(&mut to.span, Span::none()).inject(&mut request.meta);
        request.stage += 1;
        let parcel = Parcel {
            to,
            request,
            payload,
            deadline,
        };
        self.forwarder.pass_on(parcel, false);
    }

    /// Reports the outcome of a forwarded message to its client.
    fn handle_notice(&mut self, notice: Option<Notice>) {
        let Some(Notice { to, outcome }) = notice else {
            return;
        };
        match outcome {
            Ok(rerouted) => {
                let mut header = self.header_for(&to);
                header.rerouted = Some(rerouted);
                self.send(&to, &header, Bytes::new());
            }
            Err(failure) => self.answer(&to, Err(failure)),
        }
    }

    fn header_for(&self, to: &ReplyTo) -> Answer {
        let mut header = Answer::greeting(self.state.uuid);
        header.job = to.job;
        header.idx = to.idx;
        header.stage = Some(to.stage);
        header
    }

    fn answer(&mut self, to: &ReplyTo, result: FunctionResult) {
        to.span.ended(result.as_ref());
        let mut header = self.header_for(to);
        let payload = match result {
            Ok(answer) => {
                let (payload, meta) = answer.into_parts();
                header.meta = meta;
                payload
            }
            Err(failure) => {
                self.state.failed(failure.kind);
                header.error = Some(failure);
                Bytes::new()
            }
        };
        self.send(to, &header, payload);
    }

    fn send(&mut self, to: &ReplyTo, header: &Answer, payload: Bytes) {
        let connection = match to.client {
            None => Some(&to.connection),
            Some(client) => self.clients.table.connection(client),
        };
        if let Some(Connection::Native(native)) = connection
            && header::encode_compact(to, header, &mut self.header)
        {
            self.sender.send_pair(native, &self.header, &payload);
            return;
        }
        let frames = header::frames(to, header, payload);
        match (connection.cloned(), to.client) {
            (Some(connection), _) => self.send_frames(&connection, frames),
            (None, Some(client)) => self.clients.hold(client, &frames),
            (None, None) => {}
        }
    }

    fn send_frames(&mut self, to: &Connection, frames: Frames) {
        if let Some(sending) = self.sender.send(to, frames) {
            self.pending_sends.push(sending);
        }
    }
}

/// What a request is for.
enum Target {
    /// A function that runs beside others.
    Function(Callee),
    /// What this name stands for, if there is a built-in function of this name.
    BuiltIn(String),
}
