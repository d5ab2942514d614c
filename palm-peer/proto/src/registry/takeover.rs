//! Takeover by a new leader: published keys stay, and the records get the new leader's uuid
//! in paced batches.

use super::{Action, Entry, Published, Registry, Write};
use crate::types::{ids::Revision, record::Record};
use uuid::Uuid;

impl Registry {
    /// Handles the end of the first listing: requests the withdrawal of published keys of servers
    /// that do not exist.
    pub fn listed(&mut self) -> Vec<Action> {
        for (uuid, Published { instance, .. }) in std::mem::take(&mut self.found) {
            if !self.servers.contains_key(&uuid) {
                self.actions.push(Action::Withdraw {
                    uuid,
                    server: instance.server,
                });
            }
        }
        std::mem::take(&mut self.actions)
    }

    /// Takes up to `max` records that are right except for the leader they name, each with this
    /// leader's uuid, and the revision that it replaces. The outcome of each write must be reported
    /// by [`Event::WriteDone`](super::Event::WriteDone).
    pub fn take_unvouched(&mut self, max: usize) -> Vec<(Record, Revision)> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(uuid) = self.unvouched.pop_first()
        {
            if let Some(entry) = self.servers.get(&uuid)
                && self.is_unvouched(uuid)
            {
                taken.push((
                    Record {
                        leader: Some(self.me),
                        ..entry.record.clone()
                    },
                    entry.modified,
                ));
                self.writing.insert(
                    uuid,
                    Write {
                        replaces: entry.modified,
                        removal: None,
                        publishes: false,
                    },
                );
            }
        }
        taken
    }

    pub(super) fn is_unvouched(&self, uuid: Uuid) -> bool {
        let right = |entry: &Entry| {
            entry.answered_at.is_some()
                && entry.is_reachable()
                && entry.is_published()
                && !entry.outdated
        };
        let named = |entry: &Entry| entry.record.leader == Some(self.me);
        !self.writing.contains_key(&uuid)
            && self
                .servers
                .get(&uuid)
                .is_some_and(|entry| right(entry) && !named(entry))
    }
}
