//! Who leads: the recipe of etcd's `clientv3/concurrency`, carried out by the candidate itself.
//!
//! Each candidate holds one key on its lease; the key with the lowest create revision leads. Everyone else waits for the
//! end of the next older key, and of the two before that to learn when it is one of the next two in line. So a leader's end wakes
//! the next three in line, and not the mesh. The first two of them watch the leader's process over a link as well: should both the
//! leader and its successor end in silence, the mesh need not wait for their leases.

use super::backoff::backoff;
use crate::reflector::KeyValue;
use crate::types::{
    ids::{LeaseId, Revision},
    keys::Keys,
};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How many candidates before one's own matter: the next older, and the two before that.
pub const AHEAD: usize = 3;

/// A key under `/election/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The key, whose last part is the lease.
    pub key: String,
    /// The lease that the key is on.
    pub lease: LeaseId,
    /// Whose key it is; `None` when its value is no uuid.
    pub uuid: Option<Uuid>,
    /// When it was put, which decides.
    pub created: Revision,
}

impl Candidate {
    /// Reads what lies under `/election/`. A key whose last part is no lease, or another than it is on, was not put by a
    /// peer.
    #[must_use]
    pub fn read(keys: &Keys, kv: &KeyValue) -> Option<Self> {
        let lease = keys.candidate_lease(&kv.key).filter(|lease| kv.lease == Some(*lease))?;
        let uuid = std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok());
        Some(Self { key: kv.key.clone(), lease, uuid, created: kv.created })
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer is registered under this lease: it may stand.
    LeaseHeld(LeaseId),
    /// The lease may have run out.
    LeaseInDoubt,
    /// The own candidacy and the latest [`AHEAD`] of those before it, as etcd holds them now.
    Listed(Vec<Candidate>),
    /// A watched key, one's own or that of somebody before, is gone.
    KeyGone,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Put the own key if it is absent, then list it and those before it.
    Stand(LeaseId),
    /// Wait for the end of the predecessor's key, and for those of the keys ahead of it: then this candidate comes closer to the lead.
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
    /// The one or two before the predecessor. When the third candidate before this one ends, this one is the second in line, and has
    /// to watch over the new leader.
    pub ahead: Vec<Candidate>,
    /// The leader, if no more than one candidate stands in between: its process is to be watched over a link.
    pub leader: Option<Candidate>,
    /// When the own key was created, whose end matters as well.
    pub own: Revision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Out,
    Standing(LeaseId),
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
    /// The create revision of the own key while this peer leads.
    #[must_use]
    pub fn term(&self) -> Option<Revision> {
        match self.state {
            State::Leading(_, term) => Some(term),
            _ => None,
        }
    }

    /// Takes in what happened and says what to do, in order.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        match (event, self.state) {
            (Event::LeaseInDoubt, _) => self.enter(State::Out, None),
            (Event::LeaseHeld(lease), State::Leading(own, _)) if own == lease => Vec::new(),
            (Event::LeaseHeld(lease), _)
            | (Event::KeyGone, State::Standing(lease) | State::Following(lease) | State::Leading(lease, _)) => {
                self.enter(State::Standing(lease), Some(Action::Stand(lease)))
            }
            (Event::KeyGone, State::Out) => Vec::new(),
            (Event::Listed(candidates), _) => self.place(candidates),
        }
    }

    fn place(&mut self, mut candidates: Vec<Candidate>) -> Vec<Action> {
        let (State::Standing(lease) | State::Following(lease)) = self.state else {
            return Vec::new();
        };
        candidates.sort_by_key(|candidate| candidate.created);
        match candidates.iter().position(|candidate| candidate.lease == lease) {
            // One's own key must still stand before leading.
            None => self.enter(State::Standing(lease), Some(Action::Stand(lease))),
            Some(0) => {
                let term = candidates[0].created;
                self.enter(State::Leading(lease, term), Some(Action::Lead(term)))
            }
            Some(place) => {
                let own = candidates[place].created;
                candidates.truncate(place);
                let leader = if place < AHEAD { candidates.first().cloned() } else { None };
                let predecessor = candidates.remove(place - 1);
                let follow = Action::Follow(Follow { predecessor, ahead: candidates, leader, own });
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

/// How long one who resigned lets others lead before it stands again: the longer, the more often it had to resign.
#[derive(Debug, Default)]
pub struct Resignations {
    /// How many there were in a row, and when the last one was.
    last: Option<(u32, Instant)>,
}

/// The wait after the first resignation, and the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest pause of a leader that resigned.
pub const MAX_WAIT: Duration = Duration::from_secs(60);
/// Who led for so long again starts anew.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

impl Resignations {
    /// Takes in a resignation; says how long to wait.
    pub fn resigned(&mut self, now: Instant) -> Duration {
        let before = self.last.filter(|(_, last)| now.saturating_duration_since(*last) < FORGIVEN_AFTER);
        let count = before.map_or(0, |(count, _)| count.saturating_add(1));
        self.last = Some((count, now));
        backoff(count, FIRST_WAIT, MAX_WAIT, 0.0)
    }
}

#[cfg(test)]
mod tests;
