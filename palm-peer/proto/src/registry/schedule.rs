//! The deadlines of all servers, kept so that an event costs the same with one server
//! and with thousands.

use super::{Entry, Registry};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};
use uuid::Uuid;

/// How many probes may be in flight at a time. A thousand connections opened at once would each
/// exceed their timeout on a busy machine.
pub(super) const MAX_PROBES: usize = 256;

/// What the schedule knows about one server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Scheduled {
    due: Option<Instant>,
    busy: bool,
    probes: usize,
    place: Option<Place>,
}

/// A place in the queue of servers whose series of probes waits for room. Smaller places
/// are served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Servers that were never configured and do not answer wait behind all others: thousands of
    /// such records must not delay the configuration of a new server.
    is_unreachable: bool,
    number: u64,
}

impl Scheduled {
    fn of(entry: &Entry) -> Self {
        Self {
            due: entry.due(),
            busy: entry.is_busy(),
            probes: entry.probes.len(),
            place: entry.queued,
        }
    }
}

/// The servers by their deadlines, and sums over all of them.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    due: BTreeSet<(Instant, Uuid)>,
    /// How many servers keep the current round from ending.
    pub(super) busy: usize,
    /// How many probes are in flight.
    pub(super) probes: usize,
    /// The servers whose probes wait until fewer are in flight, each once, by their
    /// places in the queue.
    waiting: BTreeMap<Place, Uuid>,
    /// The number of the last place that was assigned.
    last_place: u64,
}

impl Schedule {
    /// Returns the earliest deadline of all servers.
    pub(super) fn first(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Returns a place at the end of the queue, or of its part for servers that cannot be reached.
    pub(super) fn enqueue(&mut self, is_unreachable: bool) -> Place {
        self.last_place += 1;
        Place {
            is_unreachable,
            number: self.last_place,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.due.len() + self.waiting.len()
    }

    fn replace(&mut self, uuid: Uuid, old: Scheduled, new: Scheduled) {
        if old.due != new.due {
            old.due.map(|at| self.due.remove(&(at, uuid)));
            new.due.map(|at| self.due.insert((at, uuid)));
        }
        if old.place != new.place {
            old.place.map(|place| self.waiting.remove(&place));
            new.place.map(|place| self.waiting.insert(place, uuid));
        }
        self.busy = self.busy + usize::from(new.busy) - usize::from(old.busy);
        self.probes = self.probes + new.probes - old.probes;
    }
}

impl Registry {
    /// Updates the schedule of a server. Must be called after each change of its entry.
    pub(super) fn schedule(&mut self, uuid: Uuid) {
        let Some(entry) = self.servers.get_mut(&uuid) else {
            return;
        };
        let new = Scheduled::of(entry);
        let old = std::mem::replace(&mut entry.scheduled, new);
        self.schedule.replace(uuid, old, new);
    }

    /// Removes a server.
    pub(super) fn forget(&mut self, uuid: Uuid) -> Option<Entry> {
        let entry = self.servers.remove(&uuid)?;
        self.schedule
            .replace(uuid, entry.scheduled, Scheduled::default());
        self.unvouched.remove(&uuid);
        Some(entry)
    }

    /// Handles all deadlines that have passed, and starts the series of probes for
    /// which there is room.
    pub(super) fn run_due(&mut self, now: Instant) {
        while let Some((at, uuid)) = self.schedule.due.first().copied()
            && at <= now
        {
            self.tick_server(uuid, now);
            self.schedule(uuid);
        }
        while self.schedule.probes < MAX_PROBES
            && let Some((_, uuid)) = self.schedule.waiting.pop_first()
        {
            if let Some(entry) = self.servers.get_mut(&uuid) {
                entry.queued = None;
                entry.sent = 0;
                entry.misses = 0;
                // The turn that came while it waited is this one.
                entry.turn_at.take_if(|at| now >= *at);
                self.send_probe(uuid, now);
                self.schedule(uuid);
            }
        }
    }
}
