//! One job at its client: which messages are under way, what is tried again, and what the consumer gets.
//!
//! Every message ends in exactly one result or one error. What is under way, or waits to be consumed, is bounded by the
//! window; nothing is pulled from the input beyond it.

use crate::facts::message::{Failure, FailureKind};
use bytes::Bytes;
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
    /// How often a message is tried at most.
    pub attempts: u32,
    /// How long a message may take in all.
    pub deadline: Duration,
    /// How long an attempt may take before the next one, if there is one.
    pub patience: Duration,
    /// Whether results come in the order of the messages, or as they complete.
    pub ordered: bool,
}

/// Why a message has no result, and who said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What went wrong.
    pub failure: Failure,
    /// The stage that it went wrong at.
    pub stage: usize,
    /// The server that said so; `None` when it was the client.
    pub server: Option<Uuid>,
}

/// What a message ended in.
pub type Ending = Result<Bytes, Fault>;

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
        fault: Fault,
    },
    /// An answer came in.
    Answered {
        /// Which message.
        idx: u64,
        /// Its result, or what went wrong.
        ending: Ending,
    },
    /// An instance will answer no more: its link broke, or it is no longer published.
    Gone(Uuid),
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
        avoid: Vec<Uuid>,
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
    pub duplicates: u64,
}

#[derive(Debug)]
struct Flight {
    payload: Bytes,
    deadline: Instant,
    attempts: u32,
    /// Where the attempt under way goes; empty while none is.
    route: Vec<Uuid>,
    avoid: Vec<Uuid>,
    /// When to try again, while no attempt is under way.
    retry_at: Option<Instant>,
    /// When the attempt under way is given up for another.
    give_up_at: Option<Instant>,
    /// How often it was put off without an attempt being counted.
    refusals: u32,
    last: Option<Fault>,
}

/// One job.
#[derive(Debug)]
pub struct Job {
    limits: Limits,
    flights: BTreeMap<u64, Flight>,
    /// Deadlines and retries, soonest first.
    timers: BTreeSet<(Instant, u64)>,
    finished: BTreeMap<u64, Ending>,
    order: VecDeque<u64>,
    bytes: usize,
    next_idx: u64,
    next_out: u64,
    input_ended: bool,
    counts: Counts,
    actions: Vec<Action>,
}

impl Job {
    /// A job that has not begun.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            flights: BTreeMap::new(),
            timers: BTreeSet::new(),
            finished: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            next_idx: 0,
            next_out: 0,
            input_ended: false,
            counts: Counts::default(),
            actions: Vec::new(),
        }
    }

    /// How it is getting on.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
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

    /// When [`Job::tick`] is needed next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The next message that ended, if the consumer may have it now.
    pub fn next(&mut self) -> Option<(u64, Ending)> {
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
            Event::NotSent { idx, fault } => self.refused(idx, fault, now),
            Event::Answered { idx, ending } => self.answered(idx, ending, now),
            Event::Gone(instance) => self.gone(instance, now),
        }
        std::mem::take(&mut self.actions)
    }

    /// Lets time pass: gives up what is past its deadline, tries again what is due.
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        while let Some((at, idx)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.remove(&(at, idx));
            let Some(flight) = self.flights.get_mut(&idx) else { continue };
            if now >= flight.deadline {
                let fault = flight.last.take().unwrap_or_else(|| Fault {
                    failure: Failure::new(FailureKind::TimedOut, "no answer before the deadline"),
                    stage: 0,
                    server: None,
                });
                self.end(idx, Err(fault));
            } else if flight.retry_at.is_some_and(|retry| now >= retry) {
                self.send(idx);
            } else if flight.give_up_at.is_some_and(|give_up| now >= give_up) {
                let words = format!("no answer within {:?}", self.limits.patience);
                let server = flight.route.first().copied();
                let failure = Failure::new(FailureKind::Unreachable, words);
                self.lost(idx, Fault { failure, stage: 0, server }, now);
            }
        }
        std::mem::take(&mut self.actions)
    }

    fn pulled(&mut self, payload: Bytes, now: Instant) {
        let idx = self.next_idx;
        self.next_idx += 1;
        self.counts.pulled += 1;
        self.bytes += payload.len();
        let deadline = now + self.limits.deadline;
        self.timers.insert((deadline, idx));
        let flight = Flight {
            payload,
            deadline,
            attempts: 1,
            route: Vec::new(),
            avoid: Vec::new(),
            retry_at: None,
            give_up_at: None,
            refusals: 0,
            last: None,
        };
        self.flights.insert(idx, flight);
        self.send(idx);
    }

    fn sent(&mut self, idx: u64, route: Vec<Uuid>, now: Instant) {
        let give_up = now + self.limits.patience;
        let Some(flight) = self.flights.get_mut(&idx) else { return };
        flight.route = route;
        // The last attempt has all the time that is left.
        if flight.attempts < self.limits.attempts && give_up < flight.deadline {
            flight.give_up_at = Some(give_up);
            self.timers.insert((give_up, idx));
        }
    }

    fn send(&mut self, idx: u64) {
        self.stop_attempt(idx);
        let Some(flight) = self.flights.get_mut(&idx) else { return };
        let (payload, deadline, avoid) = (flight.payload.clone(), flight.deadline, flight.avoid.clone());
        self.actions.push(Action::Send { idx, payload, deadline, avoid });
    }

    /// Forgets the attempt under way, and what it or a next one waits for.
    fn stop_attempt(&mut self, idx: u64) {
        let Some(flight) = self.flights.get_mut(&idx) else { return };
        flight.route.clear();
        for at in [flight.retry_at.take(), flight.give_up_at.take()].into_iter().flatten() {
            self.timers.remove(&(at, idx));
        }
    }

    fn answered(&mut self, idx: u64, ending: Ending, now: Instant) {
        let Some(flight) = self.flights.get(&idx) else {
            self.counts.duplicates += 1;
            return;
        };
        let fault = match ending {
            Ok(result) => return self.end(idx, Ok(result)),
            Err(fault) => fault,
        };
        // What an attempt that was given up says of its instances is no news.
        let stale = fault.server.is_some_and(|server| !flight.route.is_empty() && !flight.route.contains(&server));
        match fault.failure.kind {
            _ if stale && did_not_run(fault.failure.kind) => {}
            FailureKind::Busy | FailureKind::Leaving | FailureKind::WrongServer => self.refused(idx, fault, now),
            FailureKind::Unreachable => self.lost(idx, fault, now),
            _ => self.end(idx, Err(fault)),
        }
    }

    /// The message was refused before the function ran: it is tried again, and that is no attempt used up.
    fn refused(&mut self, idx: u64, fault: Fault, now: Instant) {
        let hopeless =
            matches!(fault.failure.kind, FailureKind::NoSuchFunction | FailureKind::BadMessage | FailureKind::TooLarge);
        let Some(flight) = self.flights.get_mut(&idx) else { return };
        if hopeless {
            return self.end(idx, Err(fault));
        }
        flight.refusals += 1;
        let wait = pause(flight.refusals);
        self.put_off(idx, fault, now + wait);
    }

    /// The message may be lost: it is tried again as often as it may be.
    fn lost(&mut self, idx: u64, fault: Fault, now: Instant) {
        let Some(flight) = self.flights.get_mut(&idx) else { return };
        if flight.attempts >= self.limits.attempts {
            return self.end(idx, Err(fault));
        }
        flight.attempts += 1;
        self.counts.retried += 1;
        self.put_off(idx, fault, now);
    }

    fn put_off(&mut self, idx: u64, fault: Fault, until: Instant) {
        self.stop_attempt(idx);
        let Some(flight) = self.flights.get_mut(&idx) else { return };
        if let Some(server) = fault.server {
            // One place to avoid is enough: the others may be well again.
            flight.avoid = vec![server];
        }
        flight.last = Some(fault);
        // The deadline's own entry must not be taken for it.
        let until = if until == flight.deadline { until + Duration::from_nanos(1) } else { until };
        flight.retry_at = Some(until);
        self.timers.insert((until, idx));
    }

    fn gone(&mut self, instance: Uuid, now: Instant) {
        let through: Vec<(u64, usize)> = self
            .flights
            .iter()
            .filter_map(|(idx, flight)| Some((*idx, flight.route.iter().position(|uuid| *uuid == instance)?)))
            .collect();
        for (idx, stage) in through {
            let failure = Failure::new(FailureKind::Unreachable, "the server is gone; the function may have run");
            self.lost(idx, Fault { failure, stage, server: Some(instance) }, now);
        }
    }

    fn end(&mut self, idx: u64, ending: Ending) {
        self.stop_attempt(idx);
        let Some(flight) = self.flights.remove(&idx) else { return };
        self.timers.remove(&(flight.deadline, idx));
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

fn did_not_run(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Busy | FailureKind::Leaving | FailureKind::WrongServer | FailureKind::Unreachable)
}

fn size(ending: &Ending) -> usize {
    ending.as_ref().map_or(0, Bytes::len)
}

/// The wait after the `refusals`-th refusal in a row: 2 ms, doubling up to half a second.
fn pause(refusals: u32) -> Duration {
    Duration::from_millis(1).saturating_mul(1 << refusals.min(9))
}

#[cfg(test)]
mod tests;
