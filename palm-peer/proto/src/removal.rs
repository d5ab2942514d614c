//! Why a peer's record is gone, and what follows for the peer.
//!
//! An absent key proves nothing: etcd may have been restored from a backup, or more than this
//! record was cleared. An irreversible step, the end of the server, needs positive proof that an
//! administrator meant this very server:
//!
//! - a tombstone by an administrator that is newer than the registration, or
//! - a deletion reported by a live watch, in the history in which the server registered and on
//!   a lease that is alive. This is a deletion by hand, which leaves no tombstone, so the peer
//!   writes one, in a transaction that succeeds only while the record is still absent and the
//!   peer's candidate key, the reset mark and the tombstones are unchanged. If it fails,
//!   nothing is proven.

use crate::types::{
    ids::Revision,
    timestamp::Timestamp,
    tombstone::{RemovedBy, Tombstone},
};

/// The last known write of a peer's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastWritten {
    /// The revision of the record.
    pub revision: Revision,
    /// etcd's history in which that was. Revisions of different histories cannot be compared.
    pub epoch: u64,
    /// When the peer registered, by the wall clock.
    pub registered: Timestamp,
}

impl LastWritten {
    /// Returns whether a tombstone is newer than the registration.
    ///
    /// In another history the revisions cannot be compared, and an old tombstone may have come back
    /// from the backup. So the wall-clock times decide.
    #[must_use]
    pub fn is_before(&self, tombstone: &Tombstone, modified: Revision, epoch: u64) -> bool {
        if epoch == self.epoch {
            modified > self.revision
        } else {
            tombstone.when > self.registered
        }
    }
}

/// What etcd holds right after a peer saw its record disappear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovalFacts {
    /// The last write of the record.
    pub written: LastWritten,
    /// When it was deleted, if a live watch reported that. A listing only shows that it is absent.
    pub deleted: Option<Revision>,
    /// etcd's history at that time.
    pub epoch: u64,
    /// The tombstone of this peer, and when it was written.
    pub departure: Option<(Tombstone, Revision)>,
    /// When the mesh was last reset.
    pub reset: Option<Revision>,
    /// Whether etcd still knows the lease that the record was on.
    pub lease_alive: bool,
}

/// Why the record is gone, and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalCause {
    /// An administrator removed the server: it stays out.
    Evicted,
    /// A live watch reported the deletion, and there is no tombstone: the key was deleted by hand,
    /// if a tombstone that says so can be written.
    DeletedByHand,
    /// The registry removed it because it did not answer: it rejoins once it answers.
    Mute,
    /// The mesh was reset: it rejoins at once.
    Reset,
    /// The lease is gone: it rejoins under a new one.
    LeaseLost,
    /// The record is gone for an unknown reason: it rejoins at once.
    Unexplained,
}

/// Returns why a record is gone.
///
/// The tombstone and the reset mark are written in the transaction that deletes the record; those
/// older than the record belong to an earlier registration.
#[must_use]
pub fn classify(evidence: &RemovalFacts) -> RemovalCause {
    let RemovalFacts {
        written,
        epoch,
        lease_alive,
        ..
    } = evidence;
    let same_history = *epoch == written.epoch;
    let reset = evidence
        .reset
        .is_some_and(|at| same_history && at > written.revision);
    let departure = evidence
        .departure
        .as_ref()
        .filter(|(note, at)| written.is_before(note, *at, *epoch));
    match departure.map(|(note, _)| note.why) {
        _ if reset => RemovalCause::Reset,
        Some(RemovedBy::Admin) => RemovalCause::Evicted,
        Some(RemovedBy::Registry) if *lease_alive => RemovalCause::Mute,
        _ if !lease_alive => RemovalCause::LeaseLost,
        None if same_history && evidence.deleted.is_some_and(|at| at > written.revision) => {
            RemovalCause::DeletedByHand
        }
        _ => RemovalCause::Unexplained,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn note(why: RemovedBy, at: i64) -> (Tombstone, Revision) {
        (
            Tombstone {
                why,
                reason: String::new(),
                when: time("2026-01-01T00:00:00"),
            },
            Revision(at),
        )
    }

    fn written(epoch: u64, registered: &str) -> LastWritten {
        LastWritten {
            revision: Revision(8),
            epoch,
            registered: time(registered),
        }
    }

    #[test]
    fn each_way_to_lose_a_record_is_classified() {
        use RemovalCause::{DeletedByHand, Evicted, LeaseLost, Mute, Reset, Unexplained};
        for (departure, reset, lease_alive, listed, watched) in [
            (
                Some(note(RemovedBy::Admin, 9)),
                None,
                true,
                Evicted,
                Evicted,
            ),
            (
                Some(note(RemovedBy::Admin, 9)),
                None,
                false,
                Evicted,
                Evicted,
            ),
            (
                Some(note(RemovedBy::Admin, 8)),
                None,
                false,
                LeaseLost,
                LeaseLost,
            ),
            (
                Some(note(RemovedBy::Admin, 8)),
                None,
                true,
                Unexplained,
                DeletedByHand,
            ),
            (Some(note(RemovedBy::Registry, 9)), None, true, Mute, Mute),
            (
                Some(note(RemovedBy::Registry, 9)),
                None,
                false,
                LeaseLost,
                LeaseLost,
            ),
            (
                Some(note(RemovedBy::Registry, 3)),
                None,
                true,
                Unexplained,
                DeletedByHand,
            ),
            (None, Some(9), true, Reset, Reset),
            (None, Some(8), true, Unexplained, DeletedByHand),
            (None, None, true, Unexplained, DeletedByHand),
            (None, None, false, LeaseLost, LeaseLost),
        ] {
            for (deleted, verdict) in [(None, listed), (Some(Revision(9)), watched)] {
                let written = written(0, "2026-01-01T00:00:00");
                let (departure, reset) = (departure.clone(), reset.map(Revision));
                let evidence = RemovalFacts {
                    written,
                    deleted,
                    epoch: 0,
                    departure,
                    reset,
                    lease_alive,
                };
                assert_eq!(classify(&evidence), verdict, "{evidence:?}");
            }
        }
    }

    #[test]
    fn in_a_new_history_only_a_later_tombstone_ends_a_server() {
        for (registered, departure, verdict) in [
            (
                "2025-12-31T00:00:00",
                Some(note(RemovedBy::Admin, 3)),
                RemovalCause::Evicted,
            ),
            (
                "2026-01-02T00:00:00",
                Some(note(RemovedBy::Admin, 30)),
                RemovalCause::Unexplained,
            ),
            ("2025-12-31T00:00:00", None, RemovalCause::Unexplained),
        ] {
            let (written, deleted, reset) = (
                written(0, registered),
                Some(Revision(20)),
                Some(Revision(19)),
            );
            let evidence = RemovalFacts {
                written,
                deleted,
                epoch: 1,
                departure,
                reset,
                lease_alive: true,
            };
            assert_eq!(classify(&evidence), verdict, "{evidence:?}");
        }
    }
}
