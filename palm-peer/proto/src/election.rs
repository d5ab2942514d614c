//! Leader election: the recipe of etcd's `clientv3/concurrency`, carried out by the
//! candidate itself.
//!
//! Each candidate holds one key on its lease; the key with the lowest create revision leads. Every
//! other candidate watches the next older key, and the two before that, to learn when it is one of
//! the next two in line. So the end of a leader wakes the next three candidates and not the whole
//! mesh. The first two of them also watch the leader's process over a link: if the leader and its
//! successor are killed together, the mesh need not wait for their leases to expire.

use super::backoff::backoff;
use crate::reflector::KeyValue;
use crate::types::{
    ids::{LeaseId, Revision},
    keys::Keys,
};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How many older candidates a candidate watches: the next older one, and the two before that.
pub const AHEAD: usize = 3;

/// A key under `/election/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The key, whose last part is the lease.
    pub key: String,
    /// The lease that the key is on.
    pub lease: LeaseId,
    /// The candidate's uuid; `None` when the value is not a uuid.
    pub uuid: Option<Uuid>,
    /// The create revision, which decides who leads.
    pub created: Revision,
}

impl Candidate {
    /// Reads a key under `/election/`. Returns `None` when its last part is not the lease that it
    /// is on: no peer put it.
    #[must_use]
    pub fn read(keys: &Keys, kv: &KeyValue) -> Option<Self> {
        let lease = keys
            .candidate_lease(&kv.key)
            .filter(|lease| kv.lease == Some(*lease))?;
        let uuid = std::str::from_utf8(&kv.value)
            .ok()
            .and_then(|text| text.parse().ok());
        Some(Self {
            key: kv.key.clone(),
            lease,
            uuid,
            created: kv.created,
        })
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer is registered under this lease, and may become a candidate.
    LeaseHeld(LeaseId),
    /// The lease may have run out.
    LeaseInDoubt,
    /// Its own candidate key and the latest [`AHEAD`] keys before it, as etcd holds them now.
    Listed(Vec<Candidate>),
    /// A watched key is gone: its own, or one before it.
    KeyGone,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Put its own key if it is absent, then list it and those before it.
    Campaign(LeaseId),
    /// Wait for the deletion of the predecessor's key, or of one of the keys ahead of it: each
    /// brings this candidate closer to the lead.
    Follow(Follow),
    /// Take up the leader's duties; every write compares this revision.
    Lead(Revision),
    /// Stop the leader's duties now.
    StepDown,
}

/// Whom a candidate follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    /// Whose end to wait for.
    pub predecessor: Candidate,
    /// The one or two before the predecessor. When the third candidate before this one ends, this
    /// one is the second in line, and has to watch over the new leader.
    pub ahead: Vec<Candidate>,
    /// The leader, if no more than one candidate stands in between: its process is to be
    /// watched over a link.
    pub leader: Option<Candidate>,
    /// When the own key was created, whose end matters as well.
    pub own: Revision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Out,
    Campaigning(LeaseId),
    Following(LeaseId),
    Leading(LeaseId, Revision),
}

/// One peer's part in the election.
#[derive(Debug)]
pub struct Election {
    state: State,
}

impl Default for Election {
    fn default() -> Self {
        Self { state: State::Out }
    }
}

impl Election {
    /// Returns the create revision of its own key while this peer leads.
    #[must_use]
    pub fn term(&self) -> Option<Revision> {
        match self.state {
            State::Leading(_, term) => Some(term),
            _ => None,
        }
    }

    /// Handles an event. Returns what to do, in order.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        match (event, self.state) {
            (Event::LeaseInDoubt, _) => self.enter(State::Out, None),
            (Event::LeaseHeld(lease), State::Leading(own, _)) if own == lease => Vec::new(),
            (Event::LeaseHeld(lease), _)
            | (
                Event::KeyGone,
                State::Campaigning(lease) | State::Following(lease) | State::Leading(lease, _),
            ) => self.enter(State::Campaigning(lease), Some(Action::Campaign(lease))),
            (Event::KeyGone, State::Out) => Vec::new(),
            (Event::Listed(candidates), _) => self.place(candidates),
        }
    }

    fn place(&mut self, mut candidates: Vec<Candidate>) -> Vec<Action> {
        let (State::Campaigning(lease) | State::Following(lease)) = self.state else {
            return Vec::new();
        };
        candidates.sort_by_key(|candidate| candidate.created);
        match candidates
            .iter()
            .position(|candidate| candidate.lease == lease)
        {
            // A candidate must see its own key before it leads.
            None => self.enter(State::Campaigning(lease), Some(Action::Campaign(lease))),
            Some(0) => {
                let term = candidates[0].created;
                self.enter(State::Leading(lease, term), Some(Action::Lead(term)))
            }
            Some(place) => {
                let own = candidates[place].created;
                candidates.truncate(place);
                let leader = if place < AHEAD {
                    candidates.first().cloned()
                } else {
                    None
                };
                let predecessor = candidates.remove(place - 1);
                let follow = Action::Follow(Follow {
                    predecessor,
                    ahead: candidates,
                    leader,
                    own,
                });
                self.enter(State::Following(lease), Some(follow))
            }
        }
    }

    fn enter(&mut self, state: State, action: Option<Action>) -> Vec<Action> {
        let was_leading = self.term().is_some();
        self.state = state;
        let step_down = was_leading.then_some(Action::StepDown);
        step_down.into_iter().chain(action).collect()
    }
}

/// How long a peer that resigned waits before it becomes a candidate again: longer, the more often
/// it resigned in a row.
#[derive(Debug, Default)]
pub struct Resignations {
    /// The number of resignations in a row, and the time of the last one.
    last: Option<(u32, Instant)>,
}

/// The wait after the first resignation.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait of a leader that resigned.
pub const MAX_WAIT: Duration = Duration::from_secs(60);
/// After this long without a resignation, the count starts again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

impl Resignations {
    /// Counts a resignation. Returns how long to wait.
    pub fn resigned(&mut self, now: Instant) -> Duration {
        let before = self
            .last
            .filter(|(_, last)| now.saturating_duration_since(*last) < FORGIVEN_AFTER);
        let count = before.map_or(0, |(count, _)| count.saturating_add(1));
        self.last = Some((count, now));
        backoff(count, FIRST_WAIT, MAX_WAIT, 0.0)
    }
}

#[cfg(test)]
mod tests;
