//! One message of a job, from the input to its result or error.

use super::{MessageError, Route};
use bytes::Bytes;
use foldhash::HashMap;
use std::time::Instant;
use uuid::Uuid;

/// What a message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The driver was asked to send it, and will report the outcome.
    Starting,
    /// It was rejected, and is sent again when it is due.
    PutOff,
    /// Servers were lost with its attempts; it waits in quarantine for its last one.
    InLine,
    /// An attempt is in flight, along the last of its routes.
    UnderWay,
    /// All attempts are used up, but one of them may still be answered.
    InDoubt,
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(crate) payload: Bytes,
    pub deadline: Instant,
    /// When to act on it: at its deadline, or before.
    pub(crate) due: Instant,
    pub(crate) state: State,
    /// The number of attempts begun, without those that were rejected.
    pub attempts: u32,
    /// The number of the current attempt, and when it was sent.
    pub(super) sent: Option<(u64, Instant)>,
    /// The routes of all attempts that may still be answered, superseded ones first.
    pub(crate) routes: Vec<Route>,
    /// The stages of the current attempt for which servers may have chosen another instance
    /// than the route says.
    pub(crate) rerouted_stages: Vec<usize>,
    /// Whether its last attempt is made in quarantine.
    pub(crate) quarantined: bool,
    /// Where the last attempt failed. Only one: earlier ones may have recovered.
    pub(crate) avoid: Option<Uuid>,
    /// The number of rejections in a row.
    pub(crate) refusals: u32,
    pub(crate) last: Option<MessageError>,
}

impl InFlight {
    pub(super) fn new(payload: Bytes, deadline: Instant) -> Self {
        Self {
            payload,
            deadline,
            due: deadline,
            state: State::Starting,
            attempts: 1,
            sent: None,
            routes: Vec::new(),
            rerouted_stages: Vec::new(),
            quarantined: false,
            avoid: None,
            refusals: 0,
            last: None,
        }
    }

    /// Returns the stage at which an instance is in the route of the current attempt.
    pub(super) fn stage_at(&self, instance: Uuid) -> Option<usize> {
        self.route()
            .and_then(|route| route.iter().position(|uuid| *uuid == instance))
    }

    /// Returns the route of the current attempt.
    pub(super) fn route(&self) -> Option<&Route> {
        if self.state == State::UnderWay {
            self.routes.last()
        } else {
            None
        }
    }
}

/// What is known of the attempts through one instance.
#[derive(Debug, Default)]
struct Load {
    /// How many may still be answered.
    open: usize,
    /// The latest one that was answered.
    answered: u64,
    /// The same, as it was at the last call of [`InFlightCounts::settle`].
    settled: u64,
}

/// The known attempts through each instance that some go through.
#[derive(Debug, Default)]
pub(super) struct InFlightCounts(HashMap<Uuid, Load>);

impl InFlightCounts {
    pub(super) fn of(&self, instance: Uuid) -> usize {
        self.0.get(&instance).map_or(0, |load| load.open)
    }

    pub(super) fn add(&mut self, route: &[Uuid]) {
        for instance in route {
            self.0.entry(*instance).or_default().open += 1;
        }
    }

    pub(super) fn remove(&mut self, route: &[Uuid]) {
        for instance in route {
            if let Some(load) = self.0.get_mut(instance) {
                load.open -= 1;
                if load.open == 0 {
                    self.0.remove(instance);
                }
            }
        }
    }

    /// This attempt, which still counts as open, was answered.
    pub(super) fn answered(&mut self, route: &[Uuid], attempt: u64) {
        for instance in route {
            if let Some(load) = self.0.get_mut(instance) {
                load.answered = attempt.max(load.answered);
            }
        }
    }

    /// From now on [`InFlightCounts::overtook`] knows of the answers so far.
    pub(super) fn settle(&mut self) {
        for load in self.0.values_mut() {
            load.settled = load.answered;
        }
    }

    /// Returns whether a later attempt than this one, through the same instance, was answered.
    pub(super) fn overtook(&self, instance: Uuid, attempt: u64) -> bool {
        self.0
            .get(&instance)
            .is_some_and(|load| load.settled > attempt)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
