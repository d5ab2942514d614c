//! What the registry knows of each server.

use super::Token;
use crate::facts::{
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
    /// Whether this leader has reached it since it registered.
    pub(super) reached: bool,
    /// The revision of the record that what is published agrees with.
    pub(super) published: Option<Revision>,
    /// The probes under way and when each counts as missed.
    pub(super) probes: Vec<(Token, Instant)>,
    /// How many probes of the series under way were sent, and how many of them missed.
    pub(super) sent: u32,
    pub(super) misses: u32,
    /// When to send the next probe of a series.
    pub(super) retry_at: Option<Instant>,
    /// Why it could not be reached, when that has been logged.
    pub(super) complaint: Option<String>,
    /// Why it is to be removed.
    pub(super) doom: Option<Doom>,
    /// Whether a write over this record stands, of which the watch has not told yet.
    pub(super) outdated: bool,
    /// How many writes in a row etcd did not do.
    pub(super) failed_writes: u32,
}

/// What was found under `/pipelines/<server>/<uuid>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// What clients can reach.
    pub instance: Instance,
    /// The lease that it is on.
    pub lease: Option<LeaseId>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Doom {
    pub(super) reason: &'static str,
    /// Whether the process is proven gone.
    pub(super) proven: bool,
}

impl Entry {
    pub(super) fn new(record: Record, modified: Revision, lease: Option<LeaseId>, published: bool) -> Self {
        let published = published.then_some(modified);
        Self {
            record,
            modified,
            lease,
            reached: false,
            published,
            probes: Vec::new(),
            sent: 0,
            misses: 0,
            retry_at: None,
            complaint: None,
            doom: None,
            outdated: false,
            failed_writes: 0,
        }
    }

    /// Whether `record` is this one rewritten, and not that of a server which registered anew.
    pub(super) fn lives_on_in(&self, record: &Record, lease: Option<LeaseId>) -> bool {
        let old = &self.record;
        let set_back = old.configured && !record.configured;
        old.when == record.when && self.lease == lease && old.endpoint() == record.endpoint() && !set_back
    }

    /// Clients may reach it: some leader reached it, and it has not been found dead.
    pub(super) fn is_reachable(&self) -> bool {
        self.record.configured && self.doom.is_none()
    }

    /// Whether what is published of it is right.
    pub(super) fn is_published(&self) -> bool {
        self.published == Some(self.modified)
    }

    /// Takes in that the record was rewritten.
    pub(super) fn rewrite(&mut self, record: Record, modified: Revision) {
        if self.is_published() && Instance::of(&self.record) == Instance::of(&record) {
            self.published = Some(modified);
        }
        self.record = record;
        (self.modified, self.outdated) = (modified, false);
    }
}
