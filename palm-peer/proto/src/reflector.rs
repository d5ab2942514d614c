//! A copy of a part of etcd, kept by listings and watch events, and the changes that it went through.
//!
//! A watch alone cannot be trusted: it breaks, it is compacted, it starts again somewhere else. So the truth comes
//! in pieces (a whole listing, then events, then perhaps another listing), and this module turns them into one
//! sequence of changes in which nothing is told twice and nothing that still matters is left out.

use std::collections::{BTreeMap, VecDeque};

use crate::types::ids::{LeaseId, Revision};

#[cfg(test)]
mod tests;

/// A key of etcd's, and what lay under it at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The whole key, prefix included.
    pub key: String,
    /// The value; etcd gives it no meaning.
    pub value: Vec<u8>,
    /// The lease that the key dies with, if any.
    pub lease: Option<LeaseId>,
    /// The revision that created the key. A key that was deleted and put again has a new one: compare it to know
    /// whether this is still the same life of the key.
    pub created: Revision,
    /// The revision of the last put.
    pub modified: Revision,
}

/// All keys of a range, as they were at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The revision of the whole store when the list was taken. A watch goes on at the next one.
    pub revision: Revision,
    /// The keys, in their order.
    pub items: Vec<KeyValue>,
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key has this value now.
    Put(KeyValue),
    /// The key is gone.
    Deleted {
        /// Which key.
        key: String,
        /// The revision that deleted it.
        revision: Revision,
    },
}

impl Event {
    /// The revision that made this event.
    fn revision(&self) -> Revision {
        match self {
            Self::Put(item) => item.modified,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// What changed in the range, as far as the reader has been told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A key was put. When `previous` has another `created` revision, the key was deleted in between.
    Put {
        /// What lies there now.
        current: KeyValue,
        /// What the reader was told last, if the key was there.
        previous: Option<KeyValue>,
    },
    /// A key is gone.
    Deleted {
        /// What the reader was told last.
        previous: KeyValue,
        /// The revision of the deletion, or of the listing that missed the key.
        revision: Revision,
        /// Whether a live watch told of the deletion. A listing only tells that the key is not there.
        observed: bool,
    },
    /// All that the list held has been told as `Put` and `Deleted`: the mirror is whole at this revision.
    Listed {
        /// The revision of the listing.
        revision: Revision,
    },
    /// The watch is broken: nothing more is told until the next `Listed`, and what the mirror holds may be old.
    Stale {
        /// What broke it, for the log.
        reason: String,
    },
    /// etcd's history went back, or another cluster took its place: a listing follows, in whose history nothing is known of
    /// what was told before. What it lacks may never have been there.
    NewHistory,
}

/// What waits to be told.
#[derive(Debug)]
enum Update {
    Listing(Listing),
    Event(Event),
    Interruption(String),
    NewHistory,
}

/// The copy, and what is still to be told.
///
/// Pieces go in as they come; [`Reflector::next_change`] gives one change at a time, and only then is the copy changed.
/// So [`Reflector::items`] always agrees with what the reader was told, not with what waits in line.
#[derive(Debug, Default)]
pub struct Reflector {
    items: BTreeMap<String, KeyValue>,
    /// Revision of the last listing: it already held everything up to here.
    listed: Revision,
    /// Revision of the last event: a watch never goes back.
    seen: Revision,
    /// That what is listed next belongs to a new history has been told.
    renewed: bool,
    /// That a listing itself proved it has not been taken note of.
    proved: bool,
    updates: VecDeque<Update>,
    /// The differences of the listing that is being told.
    differences: VecDeque<Change>,
}

impl Reflector {
    /// Takes a whole listing: what differs from the copy will be told, then `Listed`.
    pub fn list(&mut self, listing: Listing) {
        self.updates.push_back(Update::Listing(listing));
    }

    /// Takes events of the watch that went on where the last listing ended. The events of one revision may come in
    /// several fragments.
    pub fn events(&mut self, events: impl IntoIterator<Item = Event>) {
        self.updates.extend(events.into_iter().map(Update::Event));
    }

    /// Takes note that the watch broke.
    pub fn interrupt(&mut self, reason: String) {
        self.updates.push_back(Update::Interruption(reason));
    }

    /// Takes note that what comes belongs to a new history.
    pub fn new_history(&mut self) {
        self.updates.push_back(Update::NewHistory);
    }

    /// The next change, if there is one, which the copy takes up now.
    pub fn next_change(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = self.differences.pop_front() {
                self.take_up(&change);
                return Some(change);
            }
            let change = match self.updates.pop_front()? {
                Update::Listing(listing) => {
                    self.differences = self.compare(listing);
                    continue;
                }
                Update::Event(event) => self.apply(event),
                Update::Interruption(reason) => Some(Change::Stale { reason }),
                Update::NewHistory => Some(Change::NewHistory),
            };
            if let Some(change) = change {
                self.take_up(&change);
                return Some(change);
            }
        }
    }

    /// Whether a listing proved that a new history began, before anybody said so; once.
    pub fn take_proof(&mut self) -> bool {
        std::mem::take(&mut self.proved)
    }

    /// The copy, as far as the changes told so far make it.
    #[must_use]
    pub fn items(&self) -> &BTreeMap<String, KeyValue> {
        &self.items
    }

    /// What differs between the copy and the listing: first what is gone, then what was put, in the order of the
    /// revisions, then `Listed`.
    ///
    /// The listing is the truth even when its revision is lower than the copy's: etcd may have been restored from
    /// a backup. So items are compared as a whole and not by which is newer. A listing that is older than what was told, or
    /// has an older version of a key, proves that this is so: then nothing may be concluded from missing keys.
    fn compare(&mut self, listing: Listing) -> VecDeque<Change> {
        let revision = listing.revision;
        let older =
            |item: &KeyValue| self.items.get(&item.key).is_some_and(|delivered| item.modified < delivered.modified);
        let went_back = !self.renewed && (revision < self.seen || listing.items.iter().any(older));
        let there: BTreeMap<String, KeyValue> =
            listing.items.into_iter().map(|item| (item.key.clone(), item)).collect();
        let mut changes: VecDeque<Change> = self
            .items
            .values()
            .filter(|item| !there.contains_key(&item.key))
            .map(|item| Change::Deleted { previous: item.clone(), revision, observed: false })
            .collect();
        let mut puts: Vec<KeyValue> =
            there.into_values().filter(|item| self.items.get(&item.key) != Some(item)).collect();
        puts.sort_by_key(|item| item.modified);
        changes.extend(puts.into_iter().map(|current| {
            let previous = self.items.get(&current.key).cloned();
            Change::Put { current, previous }
        }));
        changes.push_back(Change::Listed { revision });
        if went_back {
            self.proved = true;
            changes.push_front(Change::NewHistory);
        }
        changes
    }

    /// What an event changes: nothing, when the copy has it already.
    fn apply(&mut self, event: Event) -> Option<Change> {
        if event.revision() <= self.listed || event.revision() < self.seen {
            return None;
        }
        self.seen = event.revision();
        match event {
            Event::Put(current) => {
                let previous = self.items.get(&current.key).cloned();
                (previous.as_ref() != Some(&current)).then_some(Change::Put { current, previous })
            }
            Event::Deleted { key, revision } => {
                let previous = self.items.get(&key)?.clone();
                Some(Change::Deleted { previous, revision, observed: true })
            }
        }
    }

    /// Makes the copy what the change says.
    fn take_up(&mut self, change: &Change) {
        match change {
            Change::Put { current, .. } => {
                self.items.insert(current.key.clone(), current.clone());
            }
            Change::Deleted { previous, .. } => {
                self.items.remove(&previous.key);
            }
            Change::Listed { revision } => {
                self.listed = *revision;
                self.seen = *revision;
                self.renewed = false;
            }
            Change::NewHistory => self.renewed = true,
            Change::Stale { .. } => {}
        }
    }
}
