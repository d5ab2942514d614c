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
    /// The routes of all attempts that may still be answered, superseded ones first.
    pub(crate) routes: Vec<Route>,
    /// The stages of the current attempt for which servers may have chosen another instance than the route says.
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

/// The known number of attempts through each instance.
#[derive(Debug, Default)]
pub(super) struct InFlightCounts(HashMap<Uuid, usize>);

impl InFlightCounts {
    pub(super) fn of(&self, instance: Uuid) -> usize {
        self.0.get(&instance).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, route: &[Uuid]) {
        for instance in route {
            *self.0.entry(*instance).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, route: &[Uuid]) {
        for instance in route {
            if let Some(load) = self.0.get_mut(instance) {
                *load -= 1;
                if *load == 0 {
                    self.0.remove(instance);
                }
            }
        }
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
