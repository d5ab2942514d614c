//! One job at its client: which messages are under way, what is tried again, and what the consumer gets.
//!
//! Every message ends in exactly one result or one error. What is under way, or waits to be consumed, is bounded by the
//! window; nothing is pulled from the input beyond it.
//!
//! # What an attempt is
//!
//! When an instance goes down, the job cannot know whether a message that was routed through it was there, had not come
//! so far, or was past it. So it sends the message again, as another attempt, **and goes on listening for the one before**:
//! that one counts as used up, but its answer is as good as any. Hence a message fails for want of attempts only when each
//! of them was lost in truth: when they are used up, it waits for `attempt_timeout` more for an answer to any of them.
//!
//! A message that brings down each server that it comes to ends, like any other, after its attempts: no more servers than
//! that go down by it. Others that are lost with it must not use up theirs in its company, so last attempts after a loss
//! are made one by one (`quarantine.rs`).
//!
//! An attempt that was refused is none: no function ran where it was refused.

mod attempts;
mod detours;
mod in_flight;
mod quarantine;

pub use self::detours::Detours;
use self::{
    in_flight::{InFlight, InFlightCounts, State},
    quarantine::Quarantine,
};
use crate::types::message::{CallFailure, Rerouted};
use bytes::Bytes;
use fastrand::Rng;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How a job is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many messages may be under way or wait to be consumed.
    pub messages: usize,
    /// How many bytes these may have, payloads and results; one message may always go.
    pub bytes: usize,
    /// How often a message is tried at most, refusals not counted.
    pub attempts: u32,
    /// How long a message may take in all.
    pub deadline: Duration,
    /// How long an attempt may take before the next one, if there is one; and how long an answer is waited for when all are
    /// used up.
    pub attempt_timeout: Duration,
    /// Whether results come in the order of the messages, or as they complete.
    pub ordered: bool,
}

/// Why a message has no result, and who said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageError {
    /// What went wrong.
    pub failure: CallFailure,
    /// The stage that it went wrong at.
    pub stage: usize,
    /// The server that said so; `None` when it was the client.
    pub server: Option<Uuid>,
}

/// What a message ended in.
pub type Outcome = Result<Bytes, MessageError>;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The input gave a message.
    Pulled(Bytes),
    /// The input is at its end.
    InputEnded,
    /// A message was handed to the first of these instances.
    Sent {
        /// Which message.
        idx: u64,
        /// The instances that it goes through.
        route: Vec<Uuid>,
    },
    /// A message could not be handed over; no function ran.
    NotSent {
        /// Which message.
        idx: u64,
        /// Why.
        fault: MessageError,
    },
    /// An answer came in.
    Answered {
        /// Which message.
        idx: u64,
        /// Its result, or what went wrong.
        ending: Outcome,
    },
    /// An instance will answer no more: its link broke, or it is no longer published and gives no sign of life.
    Gone {
        /// Which one.
        instance: Uuid,
        /// The stages that it could be chosen for.
        stages: Vec<usize>,
    },
    /// A stage did not pass a message on as its route said.
    Rerouted {
        /// Which message.
        idx: u64,
        /// Where it went instead.
        rerouted: Rerouted,
    },
    /// An instance is no longer published. If it is leaving, others go on with what it has, and what is on its way there.
    Leaving(Uuid),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a message; [`Event::Sent`] or [`Event::NotSent`] must follow.
    Send {
        /// Which message.
        idx: u64,
        /// What it carries.
        payload: Bytes,
        /// Until when an answer is of use.
        deadline: Instant,
        /// Where it failed before, to be avoided where there is a choice.
        avoid: Option<Uuid>,
    },
}

/// How a job is getting on.
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
    flights: BTreeMap<u64, InFlight>,
    /// When something is to be done about which of them, soonest first; one entry each.
    timers: BTreeSet<(Instant, u64)>,
    quarantine: Quarantine,
    loads: InFlightCounts,
    finished: BTreeMap<u64, Outcome>,
    order: VecDeque<u64>,
    bytes: usize,
    next_idx: u64,
    next_out: u64,
    input_ended: bool,
    counts: Counts,
    actions: Vec<Action>,
    /// For the jitter.
    random: Rng,
}

impl Job {
    /// A job that has not begun. The seed is for the jitter of its pauses.
    #[must_use]
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            flights: BTreeMap::new(),
            timers: BTreeSet::new(),
            quarantine: Quarantine::new(limits.attempt_timeout),
            loads: InFlightCounts::default(),
            finished: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            next_idx: 0,
            next_out: 0,
            input_ended: false,
            counts: Counts::default(),
            actions: Vec::new(),
            random: Rng::with_seed(seed),
        }
    }

    /// How it is getting on.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many attempts that may still be answered go through an instance.
    #[must_use]
    pub fn load(&self, instance: Uuid) -> usize {
        self.loads.of(instance)
    }

    /// Whether the window has room for another message.
    #[must_use]
    pub fn may_pull(&self) -> bool {
        let held = self.flights.len() + self.finished.len();
        !self.input_ended && (held == 0 || (held < self.limits.messages && self.bytes < self.limits.bytes))
    }

    /// Whether all is consumed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.input_ended && self.flights.is_empty() && self.finished.is_empty()
    }

    /// Whether a message has not ended yet.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.flights.is_empty()
    }

    /// When [`Job::tick`] is needed next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let first = self.timers.first().map(|(at, _)| *at);
        first.into_iter().chain(self.quarantine.due()).min()
    }

    /// The next message that ended, if the consumer may have it now.
    pub fn next_result(&mut self) -> Option<(u64, Outcome)> {
        let idx = if self.limits.ordered {
            self.finished.contains_key(&self.next_out).then_some(self.next_out)?
        } else {
            self.order.pop_front()?
        };
        let ending = self.finished.remove(&idx)?;
        self.next_out += 1;
        self.bytes -= size(&ending);
        Some((idx, ending))
    }

    /// Takes in what happened and says what to do.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
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
        self.move_on(now)
    }

    /// Lets time pass: gives up what is past its deadline, tries again what is due.
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        while let Some((at, idx)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, idx));
            self.due(idx, now);
        }
        self.move_on(now)
    }

    /// Sends the messages whose turn it is. Returns all actions.
    fn move_on(&mut self, now: Instant) -> Vec<Action> {
        while let Some(idx) = self.quarantine.next(now) {
            if self.flights.get(&idx).is_some_and(|flight| flight.state == State::InLine) {
                self.send(idx);
            } else {
                self.quarantine.leave(idx);
            }
        }
        std::mem::take(&mut self.actions)
    }

    fn pulled(&mut self, payload: Bytes, now: Instant) {
        let idx = self.next_idx;
        self.next_idx += 1;
        self.counts.pulled += 1;
        self.bytes += payload.len();
        let flight = InFlight::new(payload, now + self.limits.deadline);
        self.timers.insert((flight.due, idx));
        self.flights.insert(idx, flight);
        self.send(idx);
    }

    fn send(&mut self, idx: u64) {
        let Some(flight) = self.flights.get_mut(&idx) else { return };
        flight.state = State::Starting;
        let (payload, deadline, avoid) = (flight.payload.clone(), flight.deadline, flight.avoid);
        self.actions.push(Action::Send { idx, payload, deadline, avoid });
    }

    /// Has something done about a message then, or at its deadline, if that is sooner.
    fn wake(&mut self, idx: u64, at: Instant) {
        let Some(flight) = self.flights.get_mut(&idx) else { return };
        self.timers.remove(&(flight.due, idx));
        flight.due = at.min(flight.deadline);
        self.timers.insert((flight.due, idx));
    }

    fn end(&mut self, idx: u64, ending: Outcome) {
        let Some(flight) = self.flights.remove(&idx) else { return };
        self.timers.remove(&(flight.due, idx));
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
    ending.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests;
