//! One job at its client: which messages are in flight, what is retried, and what
//! the consumer gets.
//!
//! Every message ends in exactly one result or one error. The window bounds what is in flight or
//! waits to be consumed; nothing is pulled from the input beyond it.
//!
//! # Attempts
//!
//! When an instance is lost, the job cannot know whether a message that was routed through it was
//! there, had not arrived yet, or had passed it. So it sends the message again, as another attempt, **and
//! still accepts an answer to the previous one**. A message therefore fails for lack of attempts
//! only when all of them were really lost: once they are used up, it waits `attempt_timeout` longer
//! for an answer to any of them.
//!
//! It is also sent again when nothing was reported lost, but later messages through the same
//! instances are answered, and the job cannot go on without it (`overtaken.rs`); or else after
//! `attempt_timeout`.
//!
//! A poison message (one that crashes every server that runs it) is given up after its attempts, so
//! it crashes at most that many servers. Other messages lost with it must not use up their attempts
//! beside it, so final attempts after a loss are serialised (`quarantine.rs`).
//!
//! A rejected attempt does not count: no function ran.

mod attempts;
mod detours;
mod in_flight;
mod overtaken;
mod quarantine;
mod routes;
mod timers;

pub use self::routes::{Path, Routes};
use self::{
    detours::Detours,
    in_flight::{InFlight, InFlightCounts, State},
    overtaken::Stragglers,
    quarantine::Quarantine,
    timers::Timers,
};
use crate::types::{
    answer::Answer,
    message::{CallFailure, Rerouted},
};
use bytes::Bytes;
use fastrand::Rng;
use foldhash::{HashMap, HashMapExt as _};
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The limits of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many messages may be in flight or wait to be consumed.
    pub messages: usize,
    /// How many bytes these may have, payloads and results; one message is always allowed.
    pub bytes: usize,
    /// The maximum number of attempts of a message, without rejections.
    pub attempts: u32,
    /// How long a message may take in total.
    pub deadline: Duration,
    /// How long an attempt may take before the next one begins; and how long to wait for an answer
    /// when all are used up.
    pub attempt_timeout: Duration,
    /// Whether results come in the order of the messages, or as they complete.
    pub ordered: bool,
}

/// Why a message has no result, and where it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageError {
    /// What went wrong.
    pub failure: CallFailure,
    /// The stage that failed.
    pub stage: usize,
    /// The server that reported it; `None` when it was the client.
    pub server: Option<Uuid>,
}

/// The instances that a message goes through, one a stage. Cheap to clone: messages
/// share their routes.
pub type Route = Arc<[Uuid]>;

/// The result or error of a message.
pub type Outcome = Result<Answer, MessageError>;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The input yielded a message.
    Pulled(Bytes),
    /// The input has ended.
    InputEnded,
    /// A message was handed to the first of these instances.
    Sent {
        /// Which message.
        idx: u64,
        /// Its route.
        route: Route,
    },
    /// A message could not be handed over; no function ran.
    NotSent {
        /// Which message.
        idx: u64,
        /// Why.
        fault: MessageError,
    },
    /// An answer arrived.
    Answered {
        /// Which message.
        idx: u64,
        /// Its result or error.
        ending: Outcome,
    },
    /// An instance will not answer any more: its link broke, or it is no longer published and
    /// does not respond.
    Gone {
        /// Which one.
        instance: Uuid,
        /// The stages that it may have been chosen for.
        stages: Vec<usize>,
    },
    /// A stage did not forward a message as its route says.
    Rerouted {
        /// Which message.
        idx: u64,
        /// Where it went instead.
        rerouted: Rerouted,
    },
    /// An instance is no longer published. If it is leaving, others take over the messages that it
    /// has and those on their way to it.
    Leaving(Uuid),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a message; [`Event::Sent`] or [`Event::NotSent`] must follow.
    Send {
        /// Which message.
        idx: u64,
        /// Its payload.
        payload: Bytes,
        /// The deadline for the answer.
        deadline: Instant,
        /// The instance where it failed before, to be avoided if there is another.
        avoid: Option<Uuid>,
    },
}

/// The progress of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Messages pulled from the input.
    pub pulled: u64,
    /// Messages that ended in a result.
    pub done: u64,
    /// Messages that ended in an error.
    pub failed: u64,
    /// Attempts beyond the first of a message.
    pub retried: u64,
    /// Answers to messages that had ended before.
    pub(crate) duplicates: u64,
}

/// One job.
#[derive(Debug)]
pub struct Job {
    limits: Limits,
    flights: HashMap<u64, InFlight>,
    timers: Timers,
    quarantine: Quarantine,
    loads: InFlightCounts,
    stragglers: Stragglers,
    finished: HashMap<u64, Outcome>,
    order: VecDeque<u64>,
    bytes: usize,
    next_idx: u64,
    next_out: u64,
    input_ended: bool,
    counts: Counts,
    actions: VecDeque<Action>,
    /// For the jitter.
    random: Rng,
}

impl Job {
    /// Creates a job. The seed is for the jitter of its pauses.
    #[must_use]
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            flights: HashMap::new(),
            timers: Timers::default(),
            quarantine: Quarantine::new(limits.attempt_timeout),
            loads: InFlightCounts::default(),
            stragglers: Stragglers::default(),
            finished: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            next_idx: 0,
            next_out: 0,
            input_ended: false,
            counts: Counts::default(),
            actions: VecDeque::new(),
            random: Rng::with_seed(seed),
        }
    }

    /// Returns its progress.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns how many attempts that may still be answered go through an instance.
    #[must_use]
    pub fn load(&self, instance: Uuid) -> usize {
        self.loads.of(instance)
    }

    /// Returns when the current attempt of a message was sent.
    #[must_use]
    pub fn sent_at(&self, idx: u64) -> Option<Instant> {
        self.flights.get(&idx)?.sent.map(|(_, at)| at)
    }

    /// Returns whether the window has room for another message.
    #[must_use]
    pub fn may_pull(&self) -> bool {
        let held = self.flights.len() + self.finished.len();
        !self.input_ended
            && (held == 0 || (held < self.limits.messages && self.bytes < self.limits.bytes))
    }

    /// Returns whether the input has ended and everything is consumed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.input_ended && self.flights.is_empty() && self.finished.is_empty()
    }

    /// Returns whether a message has not ended yet.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.flights.is_empty()
    }

    /// Returns when [`Job::tick`] must be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let first = self.timers.first();
        first
            .into_iter()
            .chain(self.quarantine.due())
            .chain(self.next_look())
            .min()
    }

    /// Returns the next message that ended, if the consumer may have it now.
    pub fn next_result(&mut self) -> Option<(u64, Outcome)> {
        let idx = if self.limits.ordered {
            self.finished
                .contains_key(&self.next_out)
                .then_some(self.next_out)?
        } else {
            self.order.pop_front()?
        };
        let ending = self.finished.remove(&idx)?;
        self.next_out += 1;
        self.bytes -= size(&ending);
        Some((idx, ending))
    }

    /// Returns the next thing to do. To be called until it returns `None`, after each event and
    /// after [`Job::tick`].
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Handles an event. What is to be done is in [`Job::next_action`].
    pub fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Pulled(payload) => self.pulled(payload, now),
            Event::InputEnded => self.input_ended = true,
            Event::Sent { idx, route } => self.sent(idx, route, now),
            Event::NotSent { idx, fault } => self.not_sent(idx, fault, now),
            Event::Answered { idx, ending } => self.answered(idx, ending, now),
            Event::Gone { instance, stages } => self.gone(instance, &stages, now),
            Event::Rerouted { idx, rerouted } => self.rerouted(idx, rerouted, now),
            Event::Leaving(instance) => self.leaving(instance),
        }
        self.move_on(now);
    }

    /// Handles the passing of time: gives up messages past their deadline, and retries those that
    /// are due. What is to be done is in [`Job::next_action`].
    pub fn tick(&mut self, now: Instant) {
        while let Some((at, idx)) = self.timers.pop_due(now) {
            if self
                .flights
                .get(&idx)
                .is_some_and(|flight| flight.due == at)
            {
                self.due(idx, now);
            }
        }
        self.move_on(now);
    }

    /// Sends the messages whose turn it is.
    fn move_on(&mut self, now: Instant) {
        self.look_for_stragglers(now);
        while let Some(idx) = self.quarantine.next(now) {
            if self
                .flights
                .get(&idx)
                .is_some_and(|flight| flight.state == State::InLine)
            {
                self.send(idx);
            } else {
                self.quarantine.leave(idx);
            }
        }
        let flights = &self.flights;
        self.timers.clean_up(flights.len(), |idx, at| {
            flights.get(&idx).is_some_and(|flight| flight.due == at)
        });
    }

    fn pulled(&mut self, payload: Bytes, now: Instant) {
        let idx = self.next_idx;
        self.next_idx += 1;
        self.counts.pulled += 1;
        self.bytes += payload.len();
        let flight = InFlight::new(payload, now + self.limits.deadline);
        self.timers.set_deadline(idx, flight.due);
        self.flights.insert(idx, flight);
        self.send(idx);
    }

    fn send(&mut self, idx: u64) {
        let Some(flight) = self.flights.get_mut(&idx) else {
            return;
        };
        flight.state = State::Starting;
        let (payload, deadline, avoid) = (flight.payload.clone(), flight.deadline, flight.avoid);
        self.actions.push_back(Action::Send {
            idx,
            payload,
            deadline,
            avoid,
        });
    }

    /// Sets the timer of a message to this time, or to its deadline, if that is sooner.
    fn wake(&mut self, idx: u64, at: Instant) {
        if let Some(due) = self.change_due(idx, at) {
            self.timers.set(idx, due);
        }
    }

    /// Sets the timer of a message to the end of an attempt that begins now, or to its deadline,
    /// if that is sooner.
    fn wait_for_answer(&mut self, idx: u64, now: Instant) {
        let until = now + self.limits.attempt_timeout;
        match self.change_due(idx, until) {
            Some(due) if due == until => self.timers.set_attempt(idx, due),
            Some(due) => self.timers.set(idx, due),
            None => {}
        }
    }

    /// Changes when a message is due. Returns the new time, if it is another one.
    fn change_due(&mut self, idx: u64, at: Instant) -> Option<Instant> {
        let flight = self.flights.get_mut(&idx)?;
        let at = at.min(flight.deadline);
        (std::mem::replace(&mut flight.due, at) != at).then_some(at)
    }

    fn end(&mut self, idx: u64, ending: Outcome) {
        let Some(flight) = self.flights.remove(&idx) else {
            return;
        };
        self.quarantine.leave(idx);
        for route in &flight.routes {
            self.loads.remove(route);
        }
        self.bytes = self.bytes - flight.payload.len() + size(&ending);
        match &ending {
            Ok(_) => self.counts.done += 1,
            Err(_) => self.counts.failed += 1,
        }
        self.finished.insert(idx, ending);
        if !self.limits.ordered {
            self.order.push_back(idx);
        }
    }
}

fn size(ending: &Outcome) -> usize {
    ending
        .as_ref()
        .map_or(0, |answer| answer.len() + answer.meta().bytes())
}

#[cfg(test)]
mod tests;
