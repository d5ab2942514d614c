//! Finds messages that were lost although no server and no connection was reported lost.
//!
//! An answer can vanish between two connections: a server writes it into one that its client has
//! given up already. Nobody can report that. But an instance serves its messages in the order in
//! which they come, so the answers to later messages overtake a lost one. Such a message is sent
//! again as soon as it is all that the job waits for, instead of after `attempt_timeout`.

use super::{Job, MessageError, in_flight::State};
use crate::types::message::{CallErrorKind, CallFailure};
use std::time::{Duration, Instant};

/// How often is looked for such messages, and for how long at least they must have been overtaken.
const LOOK: Duration = Duration::from_millis(500);

/// How long a message is under way at least.
const OVERDUE: Duration = Duration::from_secs(3);

/// How many times as long as others, at least: a message whose function takes longer is
/// overtaken as well.
const OVERDUE_FACTOR: u32 = 8;

/// One of how many answers counts for the average.
const WEIGHT: u32 = 64;

/// What is known of messages that are overtaken.
#[derive(Debug, Default)]
pub(super) struct Stragglers {
    /// The number of the latest attempt.
    attempts: u64,
    /// How long messages take on average.
    usual: Duration,
    /// When to look, while the job can only wait.
    look: Option<Instant>,
}

impl Stragglers {
    /// Returns the number of an attempt that is sent now, from 1.
    pub(super) fn next_attempt(&mut self) -> u64 {
        self.attempts += 1;
        self.attempts
    }

    fn answered(&mut self, took: Duration) {
        self.usual = if self.usual.is_zero() {
            took
        } else {
            (self.usual * (WEIGHT - 1) + took) / WEIGHT
        };
    }
}

impl Job {
    /// An attempt of this message was answered.
    pub(super) fn count_answer(&mut self, idx: u64, now: Instant) {
        let Some(flight) = self.flights.get(&idx) else {
            return;
        };
        // With several attempts it is unknown which of them was answered.
        if let (Some((attempt, at)), [route], State::UnderWay) =
            (flight.sent, &flight.routes[..], flight.state)
        {
            self.loads.answered(route, attempt);
            self.stragglers.answered(now.saturating_duration_since(at));
        }
    }

    /// Returns when to look for overtaken messages.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.stragglers.look
    }

    /// Sends overtaken messages again while the job can only wait: its window is full, or its
    /// input has ended.
    pub(super) fn look_for_stragglers(&mut self, now: Instant) {
        if self.flights.is_empty() || self.may_pull() {
            self.stragglers.look = None;
            return;
        }
        let due = *self.stragglers.look.get_or_insert(now + LOOK);
        if now < due {
            return;
        }
        self.stragglers.look = Some(now + LOOK);
        let mut overtaken = self.overtaken(now);
        overtaken.sort_unstable();
        self.loads.settle();
        for idx in overtaken {
            let text = "no answer, though later messages were answered";
            let failure = CallFailure::new(CallErrorKind::Unreachable, text);
            let fault = MessageError {
                failure,
                stage: 0,
                server: None,
            };
            self.lost(idx, fault, false, now);
        }
    }

    /// Returns the messages whose first attempt was overtaken at each instance of its route, if
    /// they have another attempt: one whose function takes long is run at most once more
    /// because of this.
    fn overtaken(&self, now: Instant) -> Vec<u64> {
        let overdue = OVERDUE.max(self.stragglers.usual * OVERDUE_FACTOR);
        let flights = self.flights.iter().filter(|(_, flight)| {
            let (Some((attempt, at)), Some(route)) = (flight.sent, flight.route()) else {
                return false;
            };
            flight.attempts == 1
                && self.limits.attempts > 1
                && now >= at + overdue
                && route.iter().all(|at| self.loads.overtook(*at, attempt))
        });
        flights.map(|(idx, _)| *idx).collect()
    }
}
