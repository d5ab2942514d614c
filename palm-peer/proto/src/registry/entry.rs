//! What the registry knows about each server.

use super::{
    Token,
    schedule::{Place, Scheduled},
    suspicion::{Charge, Findings, Inquiry},
};
use crate::types::{
    ids::{LeaseId, Revision},
    instance::Instance,
    record::Record,
};
use std::time::Instant;

/// What the registry knows about one server.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: Record,
    pub(super) modified: Revision,
    pub(super) lease: Option<LeaseId>,
    /// When it last answered this leader since it registered, and whether it has failed since.
    pub(super) answered_at: Option<Instant>,
    pub(super) is_failing: bool,
    /// The revision of the record that the published key agrees with; that of a server which is
    /// not ready must be absent.
    pub(super) published: Option<Revision>,
    /// The probes in flight, and when each counts as missed.
    pub(super) probes: Vec<(Token, Instant)>,
    /// The probes of the current series that count as missed: even a late answer proves that the
    /// server is alive.
    pub(super) missed: Vec<Token>,
    /// How many probes of the current series were sent, and how many of them were missed.
    pub(super) sent: u32,
    pub(super) misses: u32,
    /// When its turn in the round comes.
    pub(super) turn_at: Option<Instant>,
    /// When to send the next probe of a series.
    pub(super) retry_at: Option<Instant>,
    /// The place in the queue, while its series of probes waits until fewer are in flight.
    pub(super) queued: Option<Place>,
    /// What the schedule knows about it.
    pub(super) scheduled: Scheduled,
    /// The last logged reason why it could not be reached.
    pub(super) last_error: Option<String>,
    /// The witnesses being asked about it, and what they have found.
    pub(super) inquiry: Option<Inquiry>,
    pub(super) findings: Findings,
    /// Why it is to be removed, once witnesses have been asked.
    pub(super) charge: Option<Charge>,
    /// Why it is being removed.
    pub(super) doom: Option<Charge>,
    /// Whether a write has replaced this record that the watch has not reported yet.
    pub(super) outdated: bool,
    /// The number of failed writes in a row.
    pub(super) failed_writes: u32,
}

/// The content of `/pipelines/<server>/<uuid>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The published instance.
    pub instance: Instance,
    /// The lease of the key.
    pub lease: Option<LeaseId>,
}

impl Entry {
    pub(super) fn new(
        record: Record,
        modified: Revision,
        lease: Option<LeaseId>,
        published: bool,
    ) -> Self {
        let published = published.then_some(modified);
        Self {
            record,
            modified,
            lease,
            answered_at: None,
            is_failing: false,
            published,
            probes: Vec::new(),
            missed: Vec::new(),
            sent: 0,
            misses: 0,
            turn_at: None,
            retry_at: None,
            queued: None,
            scheduled: Scheduled::default(),
            last_error: None,
            inquiry: None,
            findings: Findings::default(),
            charge: None,
            doom: None,
            outdated: false,
            failed_writes: 0,
        }
    }

    /// Returns whether `record` is this one rewritten, and not that of a server which
    /// registered again.
    pub(super) fn is_same_incarnation(&self, record: &Record, lease: Option<LeaseId>) -> bool {
        let old = &self.record;
        let set_back = old.configured && !record.configured;
        old.when == record.when
            && self.lease == lease
            && old.endpoint() == record.endpoint()
            && !set_back
    }

    /// Returns whether it keeps the current round from ending.
    pub(super) fn is_busy(&self) -> bool {
        self.is_questioned() || self.turn_at.is_some()
    }

    /// Returns whether it is being probed, or the result of its probes is being acted upon.
    pub(super) fn is_questioned(&self) -> bool {
        self.is_in_series() || self.charge.is_some() || self.doom.is_some()
    }

    /// Returns whether it is being probed.
    pub(super) fn is_in_series(&self) -> bool {
        !self.probes.is_empty() || self.retry_at.is_some() || self.queued.is_some()
    }

    /// Removes a probe from those in flight. Returns whether it was one of them.
    pub(super) fn end_probe(&mut self, token: Token) -> bool {
        let before = self.probes.len();
        self.probes.retain(|(open, _)| *open != token);
        self.probes.len() < before
    }

    /// Ends the current series of probes. Its turn in the round stays: it may fall
    /// silent before then.
    pub(super) fn end_series(&mut self) {
        self.probes.clear();
        self.retry_at = None;
        self.queued = None;
    }

    /// Returns its next deadline.
    pub(super) fn due(&self) -> Option<Instant> {
        let probes = self.probes.iter().map(|(_, deadline)| *deadline);
        // A probe that waits in the queue is sent when there is room.
        let next = if self.queued.is_none() {
            [self.turn_at, self.retry_at]
        } else {
            [None, None]
        };
        probes
            .chain(next.into_iter().flatten())
            .chain(self.inquiry.as_ref().map(|inquiry| inquiry.deadline))
            .min()
    }

    /// Returns whether it is known to work: a leader has reached it, and it has not been
    /// found dead.
    pub(super) fn is_reachable(&self) -> bool {
        self.record.configured && self.doom.is_none()
    }

    /// Returns whether its published key is right.
    pub(super) fn is_published(&self) -> bool {
        self.published == Some(self.modified)
    }

    /// Records that the record was rewritten.
    pub(super) fn rewrite(&mut self, record: Record, modified: Revision) {
        let agrees = match (self.record.is_ready(), record.is_ready()) {
            (true, true) => {
                self.is_published() && Instance::of(&self.record) == Instance::of(&record)
            }
            (false, false) => self.is_published(),
            // The server deletes the key in the transaction that says so.
            (true, false) => true,
            (false, true) => false,
        };
        if agrees {
            self.published = Some(modified);
        }
        self.record = record;
        self.modified = modified;
        self.outdated = false;
    }
}
