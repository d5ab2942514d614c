//! A copy of a key range of etcd, maintained by listings and watch events, and the
//! sequence of its changes.
//!
//! A watch alone is not enough: it breaks, it is compacted, it restarts at another member. So the
//! data comes in pieces (a full listing, then events, then perhaps another listing). This module
//! turns them into one sequence of changes without repetitions and without gaps that matter.

use std::collections::{BTreeMap, VecDeque};

use crate::types::ids::{LeaseId, Revision};

#[cfg(test)]
mod tests;

/// A key of etcd and its value at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The full key, prefix included.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The lease of the key, if any.
    pub lease: Option<LeaseId>,
    /// The revision that created the key. A key that was deleted and put again has another one.
    pub created: Revision,
    /// The revision of the last put.
    pub modified: Revision,
}

/// All keys of a range at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The revision of the store when the list was taken. A watch resumes at the next one.
    pub revision: Revision,
    /// The keys, sorted.
    pub items: Vec<KeyValue>,
}

/// A watch event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key has this value now.
    Put(KeyValue),
    /// The key was deleted.
    Deleted {
        /// The key.
        key: String,
        /// The revision that deleted it.
        revision: Revision,
    },
}

impl Event {
    /// Returns the revision of this event.
    fn revision(&self) -> Revision {
        match self {
            Self::Put(item) => item.modified,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// A change of the range, as delivered to the reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A key was put. When `previous` has another `created` revision, the key was
    /// deleted in between.
    Put {
        /// The key's current state.
        current: KeyValue,
        /// What was delivered for it last, if the key existed.
        previous: Option<KeyValue>,
    },
    /// A key was deleted.
    Deleted {
        /// What was delivered for it last.
        previous: KeyValue,
        /// The revision of the deletion, or of the listing that missed the key.
        revision: Revision,
        /// Whether a live watch reported the deletion. A listing only shows that the key is absent.
        observed: bool,
    },
    /// All differences of a listing have been delivered as `Put` and `Deleted`: the copy is in sync
    /// at this revision.
    Listed {
        /// The revision of the listing.
        revision: Revision,
    },
    /// The watch is broken: nothing more is delivered until the next `Listed`, and the
    /// copy may be stale.
    Stale {
        /// What broke it, for the log.
        reason: String,
    },
    /// etcd's history went back, or another cluster replaced it. A listing of the new history
    /// follows; keys that it lacks may never have existed in it.
    NewHistory,
}

/// An update that waits to be delivered.
#[derive(Debug)]
enum Update {
    Listing(Listing),
    Event(Event),
    Interruption(String),
    NewHistory,
}

/// The copy, and the updates that are not delivered yet.
///
/// Updates go in as they arrive; [`Reflector::next_change`] returns one change at a time, and only
/// then is the copy changed. So [`Reflector::items`] always agrees with the delivered changes.
#[derive(Debug, Default)]
pub struct Reflector {
    items: BTreeMap<String, KeyValue>,
    /// Revision of the last listing, which contains everything up to here.
    listed: Revision,
    /// Revision of the last event: a watch never goes back.
    seen: Revision,
    /// Whether it has been delivered that the next listing belongs to a new history.
    renewed: bool,
    /// Whether a listing proved a new history, and this has not been taken yet.
    proved: bool,
    updates: VecDeque<Update>,
    /// The remaining differences of the listing that is being delivered.
    differences: VecDeque<Change>,
}

impl Reflector {
    /// Adds a full listing: its differences from the copy will be delivered, then `Listed`.
    pub fn list(&mut self, listing: Listing) {
        self.updates.push_back(Update::Listing(listing));
    }

    /// Adds events of the watch that continues the last listing. The events of one revision may
    /// come in several fragments.
    pub fn events(&mut self, events: impl IntoIterator<Item = Event>) {
        self.updates.extend(events.into_iter().map(Update::Event));
    }

    /// Records that the watch broke.
    pub fn interrupt(&mut self, reason: String) {
        self.updates.push_back(Update::Interruption(reason));
    }

    /// Records that what follows belongs to a new history.
    pub fn new_history(&mut self) {
        self.updates.push_back(Update::NewHistory);
    }

    /// Applies and returns the next change, if there is one.
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

    /// Returns, once, whether a listing proved that a new history began before it was reported.
    pub fn take_proof(&mut self) -> bool {
        std::mem::take(&mut self.proved)
    }

    /// Returns the copy after the changes delivered so far.
    #[must_use]
    pub fn items(&self) -> &BTreeMap<String, KeyValue> {
        &self.items
    }

    /// Returns the differences between the copy and the listing: deletions first, then puts in the
    /// order of their revisions, then `Listed`.
    ///
    /// The listing is right even when its revision is lower than the copy's: etcd may have been
    /// restored from a backup. So items are compared by content and not by which is newer. A
    /// listing that is older than what was delivered, or has an older version of a key, proves a
    /// restore: then nothing may be concluded from missing keys.
    fn compare(&mut self, listing: Listing) -> VecDeque<Change> {
        let revision = listing.revision;
        let older = |item: &KeyValue| {
            self.items
                .get(&item.key)
                .is_some_and(|delivered| item.modified < delivered.modified)
        };
        let went_back = !self.renewed && (revision < self.seen || listing.items.iter().any(older));
        let there: BTreeMap<String, KeyValue> = listing
            .items
            .into_iter()
            .map(|item| (item.key.clone(), item))
            .collect();
        let mut changes: VecDeque<Change> = self
            .items
            .values()
            .filter(|item| !there.contains_key(&item.key))
            .map(|item| Change::Deleted {
                previous: item.clone(),
                revision,
                observed: false,
            })
            .collect();
        let mut puts: Vec<KeyValue> = there
            .into_values()
            .filter(|item| self.items.get(&item.key) != Some(item))
            .collect();
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

    /// Returns what an event changes: nothing, when the copy has it already.
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
                Some(Change::Deleted {
                    previous,
                    revision,
                    observed: true,
                })
            }
        }
    }

    /// Applies the change to the copy.
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
