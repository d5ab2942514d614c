//! The attempts of a message: answers, rejections, losses.

use super::{
    Job, MessageError, Outcome, Route,
    in_flight::{InFlight, State},
};
use crate::{
    backoff::backoff,
    types::message::{CallErrorKind, CallFailure, Rerouted},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The wait after a first rejection; it doubles with each further one in a row, up
/// to [`MAX_PAUSE`].
const PAUSE: Duration = Duration::from_millis(2);

/// The longest wait after a rejection.
const MAX_PAUSE: Duration = Duration::from_millis(500);

impl Job {
    pub(super) fn sent(&mut self, idx: u64, route: Route, now: Instant) {
        let Some(flight) = self.flights.get_mut(&idx) else {
            return;
        };
        self.loads.add(&route);
        flight.sent = Some((self.stragglers.next_attempt(), now));
        flight.routes.push(route);
        flight.rerouted_stages.clear();
        flight.state = State::UnderWay;
        // The last attempt has all the remaining time.
        if flight.attempts < self.limits.attempts {
            self.wait_for_answer(idx, now);
        } else {
            let deadline = flight.deadline;
            self.wake(idx, deadline);
        }
    }

    pub(super) fn not_sent(&mut self, idx: u64, fault: MessageError, now: Instant) {
        match fault.failure.kind {
            CallErrorKind::NoSuchFunction | CallErrorKind::BadMessage | CallErrorKind::TooLarge => {
                self.end(idx, Err(fault));
            }
            _ => self.put_off(idx, fault, now),
        }
    }

    pub(super) fn answered(&mut self, idx: u64, ending: Outcome, now: Instant) {
        if !self.flights.contains_key(&idx) {
            self.counts.duplicates += 1;
            return;
        }
        match ending {
            Err(fault) if is_refusal(fault.failure.kind) => self.refused(idx, fault, now),
            ending => {
                self.count_answer(idx, now);
                self.end(idx, ending);
            }
        }
    }

    /// One of the attempts was rejected before the function ran: it does not count.
    fn refused(&mut self, idx: u64, fault: MessageError, now: Instant) {
        let Some(flight) = self.flights.get_mut(&idx) else {
            return;
        };
        let by = |route: &Route| {
            fault
                .server
                .is_some_and(|server| route.get(fault.stage) == Some(&server))
        };
        let found = flight.routes.iter().rposition(by);
        // A server may have changed the route, so that it is unknown which attempt was rejected.
        // The oldest is assumed, and the current one is given up: if the rejection was for that
        // one, its answer never comes.
        let place = found.unwrap_or(0);
        if place >= flight.routes.len() {
            return;
        }
        let counted_on = match flight.state {
            State::UnderWay => found.is_none() || place + 1 == flight.routes.len(),
            State::InDoubt => true,
            State::Starting | State::PutOff | State::InLine => false,
        };
        self.loads.remove(&flight.routes.remove(place));
        if counted_on {
            self.put_off(idx, fault, now);
        } else {
            flight.attempts -= 1;
        }
    }

    /// Schedules another try after a pause, within the same attempt.
    fn put_off(&mut self, idx: u64, fault: MessageError, now: Instant) {
        let Some(flight) = self.flights.get_mut(&idx) else {
            return;
        };
        flight.state = State::PutOff;
        let pause = backoff(flight.refusals, PAUSE, MAX_PAUSE, self.random.f64());
        flight.refusals += 1;
        flight.avoid = fault.server.or(flight.avoid);
        flight.last = Some(fault);
        self.quarantine.leave(idx);
        self.wake(idx, now + pause);
    }

    /// A stage chose another instance, whose end concerns the message from now on; or it may have
    /// lost the message, which no other server may notice. The route identifies the attempt, unless
    /// two attempts have the same instance there.
    pub(super) fn rerouted(&mut self, idx: u64, rerouted: Rerouted, now: Instant) {
        let Rerouted { stage, from, to } = rerouted;
        let Some(flight) = self.flights.get_mut(&idx) else {
            return;
        };
        let meant = |route: &Route| route.get(stage) == Some(&from);
        let Some(place) = flight.routes.iter().rposition(meant) else {
            return;
        };
        let current = flight.state == State::UnderWay && place + 1 == flight.routes.len();
        let Some(to) = to else {
            if current || flight.state == State::UnderWay && flight.rerouted_stages.contains(&stage)
            {
                let text = "the connection to the server broke; the function may have run";
                let failure = CallFailure::new(CallErrorKind::Unreachable, text);
                self.lost(
                    idx,
                    MessageError {
                        failure,
                        stage,
                        server: Some(from),
                    },
                    true,
                    now,
                );
            }
            return;
        };
        if current {
            let ambiguous = flight.routes.iter().filter(|route| meant(route)).count() > 1;
            flight.rerouted_stages.retain(|other| *other != stage);
            flight.rerouted_stages.extend(ambiguous.then_some(stage));
        }
        let route = &mut flight.routes[place];
        self.loads.remove(route);
        Arc::make_mut(route)[stage] = to;
        self.loads.add(route);
    }

    /// An instance may be leaving: from now on it is unknown which instance has the messages that
    /// were routed through it.
    pub(super) fn leaving(&mut self, instance: Uuid) {
        for flight in self.flights.values_mut() {
            let Some(route) = flight.route() else {
                continue;
            };
            let rerouted_stages = |stage: &usize| flight.rerouted_stages.contains(stage);
            let at = |(stage, uuid): (usize, &Uuid)| (*uuid == instance).then_some(stage);
            // It may rejoin and leave again while the message is in flight.
            let stages: Vec<usize> = route
                .iter()
                .enumerate()
                .filter_map(at)
                .filter(|stage| !rerouted_stages(stage))
                .collect();
            flight.rerouted_stages.extend(stages);
        }
    }

    /// An instance will not answer any more.
    pub(super) fn gone(&mut self, instance: Uuid, stages: &[usize], now: Instant) {
        let chosen = |flight: &InFlight| {
            stages
                .iter()
                .copied()
                .find(|stage| flight.rerouted_stages.contains(stage))
        };
        let through = |flight: &InFlight| {
            flight.routes.iter().any(|route| route.contains(&instance))
                || (flight.state == State::UnderWay && chosen(flight).is_some())
        };
        let mut hit: Vec<u64> = self
            .flights
            .iter()
            .filter(|(_, flight)| through(flight))
            .map(|(idx, _)| *idx)
            .collect();
        // The oldest go first.
        hit.sort_unstable();
        for idx in hit {
            let Some(flight) = self.flights.get_mut(&idx) else {
                continue;
            };
            let stage = match flight.stage_at(instance) {
                None if flight.state == State::UnderWay => chosen(flight),
                stage => stage,
            };
            // Messages with a single stage are not forwarded, so these are certainly lost.
            for lost in flight.routes.extract_if(.., |route| **route == [instance]) {
                self.loads.remove(&lost);
            }
            if let Some(stage) = stage {
                let failure = CallFailure::new(
                    CallErrorKind::Unreachable,
                    "the server is gone; the function may have run",
                );
                self.lost(
                    idx,
                    MessageError {
                        failure,
                        stage,
                        server: Some(instance),
                    },
                    true,
                    now,
                );
            } else if flight.state == State::InDoubt && flight.routes.is_empty() {
                self.give_up(idx);
            }
        }
    }

    /// The current attempt may be lost: makes another one, if one is left.
    pub(super) fn lost(&mut self, idx: u64, fault: MessageError, server_gone: bool, now: Instant) {
        let Some(flight) = self.flights.get_mut(&idx) else {
            return;
        };
        self.quarantine.leave(idx);
        flight.last = Some(fault.clone());
        if flight.attempts >= self.limits.attempts {
            flight.state = State::InDoubt;
            if flight.routes.is_empty() {
                self.give_up(idx);
            } else {
                self.wait_for_answer(idx, now);
            }
            return;
        }
        flight.attempts += 1;
        flight.refusals = 0;
        flight.avoid = fault.server;
        flight.quarantined = server_gone && flight.attempts == self.limits.attempts;
        self.counts.retried += 1;
        self.dispatch(idx);
    }

    /// Sends a message, or puts it into quarantine.
    fn dispatch(&mut self, idx: u64) {
        let Some(flight) = self.flights.get_mut(&idx) else {
            return;
        };
        let deadline = flight.deadline;
        if flight.quarantined {
            flight.state = State::InLine;
            self.quarantine.join(idx);
        } else {
            self.send(idx);
        }
        self.wake(idx, deadline);
    }

    /// The deadline that a message waited for has passed.
    pub(super) fn due(&mut self, idx: u64, now: Instant) {
        let Some(flight) = self.flights.get_mut(&idx) else {
            return;
        };
        match flight.state {
            _ if now >= flight.deadline => self.give_up(idx),
            State::PutOff => self.dispatch(idx),
            State::InDoubt => self.give_up(idx),
            State::UnderWay => {
                let text = format!("no answer within {:?}", self.limits.attempt_timeout);
                let failure = CallFailure::new(CallErrorKind::Unreachable, text);
                // With several servers it is unknown which one does not answer.
                let server = flight
                    .routes
                    .last()
                    .filter(|route| route.len() == 1)
                    .map(|route| route[0]);
                self.lost(
                    idx,
                    MessageError {
                        failure,
                        stage: 0,
                        server,
                    },
                    false,
                    now,
                );
            }
            State::Starting | State::InLine => {
                let deadline = flight.deadline;
                self.wake(idx, deadline);
            }
        }
    }

    /// Ends the message with its last error.
    fn give_up(&mut self, idx: u64) {
        let Some(flight) = self.flights.get_mut(&idx) else {
            return;
        };
        let fault = flight.last.take().unwrap_or_else(|| MessageError {
            failure: CallFailure::new(CallErrorKind::TimedOut, "no answer before the deadline"),
            stage: 0,
            server: None,
        });
        self.end(idx, Err(fault));
    }
}

/// Returns whether this error means that the function did not run, and will not run for the same
/// attempt. `no_such_server` comes from the stage before, and may be temporary.
fn is_refusal(kind: CallErrorKind) -> bool {
    use CallErrorKind::{Busy, Leaving, NoSuchServer, Unreachable, WrongServer};
    matches!(
        kind,
        Busy | Leaving | WrongServer | Unreachable | NoSuchServer
    )
}
