//! One message of a job, from its being pulled to its end.

use super::MessageError;
use bytes::Bytes;
use std::{collections::HashMap, time::Instant};
use uuid::Uuid;

/// What a message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The driver was asked to send it, and will say what became of that.
    Starting,
    /// It was refused, and is sent again when it is due.
    PutOff,
    /// Servers went down with its attempts; it waits for its turn to make the last one.
    InLine,
    /// An attempt is under way, along the last of its routes.
    UnderWay,
    /// All attempts are used up, and one of them may still be answered.
    InDoubt,
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(crate) payload: Bytes,
    pub deadline: Instant,
    /// When something is to be done about it: at its deadline, or before.
    pub(crate) due: Instant,
    pub(crate) state: State,
    /// How many attempts were begun, without those that were refused.
    pub attempts: u32,
    /// The routes of all attempts that may still be answered, those that were given up for others first.
    pub(crate) routes: Vec<Vec<Uuid>>,
    /// The stages of the attempt under way for which servers may have chosen another instance than the route says.
    pub(crate) rerouted_stages: Vec<usize>,
    /// Whether its last attempt is to be made with as little company as possible.
    pub(crate) quarantined: bool,
    /// Where the last attempt went wrong. One is enough: the others may be well again.
    pub(crate) avoid: Option<Uuid>,
    /// How often it was refused in a row.
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

    /// The stage at which an instance is in the route of the attempt under way.
    pub(super) fn stage_at(&self, instance: Uuid) -> Option<usize> {
        self.route().and_then(|route| route.iter().position(|uuid| *uuid == instance))
    }

    /// The route of the attempt under way.
    pub(super) fn route(&self) -> Option<&Vec<Uuid>> {
        self.routes.last().filter(|_| self.state == State::UnderWay)
    }
}

/// How many attempts go through each instance, as far as is known.
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
