//! What a new leader makes of what its predecessor left: what is published stays, and the records get the new leader's name when
//! there is time for it.

use super::{Action, Entry, Published, Registry, Write};
use crate::types::{ids::Revision, record::Record};
use uuid::Uuid;

impl Registry {
    /// All servers have been told of: asks for the end of what is published of servers that do not exist.
    pub fn listed(&mut self) -> Vec<Action> {
        for (uuid, Published { instance, .. }) in std::mem::take(&mut self.found) {
            if !self.servers.contains_key(&uuid) {
                self.actions.push(Action::Withdraw { uuid, server: instance.server });
            }
        }
        std::mem::take(&mut self.actions)
    }

    /// Up to `max` records that are right but for the leader they name, each with this one's name and what it replaces. How
    /// the write of each ended must be told by [`Event::WriteDone`](super::Event::WriteDone).
    pub fn take_unvouched(&mut self, max: usize) -> Vec<(Record, Revision)> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(uuid) = self.unvouched.pop_first()
        {
            if let Some(entry) = self.servers.get(&uuid).filter(|_| self.is_unvouched(uuid)) {
                taken.push((Record { leader: Some(self.me), ..entry.record.clone() }, entry.modified));
                self.writing.insert(uuid, Write { replaces: entry.modified, removal: None, publishes: false });
            }
        }
        taken
    }

    pub(super) fn is_unvouched(&self, uuid: Uuid) -> bool {
        let right = |entry: &Entry| {
            entry.answered_at.is_some() && entry.is_reachable() && entry.is_published() && !entry.outdated
        };
        let named = |entry: &Entry| entry.record.leader == Some(self.me);
        !self.writing.contains_key(&uuid) && self.servers.get(&uuid).is_some_and(|entry| right(entry) && !named(entry))
    }
}
