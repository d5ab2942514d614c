//! What it means for a peer that its record is gone.

use crate::facts::{
    departure::{Departure, Why},
    ids::Revision,
};

/// What etcd holds right after a peer saw its record disappear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// When the record was last written, as far as the peer saw. (When it was deleted is not always known: a watch that
    /// was interrupted only tells that it is gone.)
    pub written: Revision,
    /// The note on this peer's departure, and when it was written.
    pub departure: Option<(Departure, Revision)>,
    /// When the mesh was last reset.
    pub reset: Option<Revision>,
    /// Whether etcd still knows the lease that the record was on.
    pub lease_alive: bool,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A person removed the server: it stays out.
    Evicted,
    /// The registry found it mute: it comes back once it answers.
    Mute,
    /// The mesh was reset: it comes back at once.
    Reset,
    /// The lease is gone: it comes back under a new one.
    LeaseLost,
}

/// Finds out why a record is gone.
///
/// The note and the reset mark are written in the transaction that deletes the record; those older than the record speak
/// of an earlier life. A deletion with neither, while the lease lives, was made by hand.
#[must_use]
pub fn judge(evidence: &Evidence) -> Verdict {
    if evidence.reset.is_some_and(|at| at > evidence.written) {
        return Verdict::Reset;
    }
    match &evidence.departure {
        Some((departure, at)) if *at > evidence.written => match departure.why {
            Why::Admin => Verdict::Evicted,
            Why::Registry if evidence.lease_alive => Verdict::Mute,
            Why::Registry | Why::Itself => Verdict::LeaseLost,
        },
        _ if evidence.lease_alive => Verdict::Evicted,
        _ => Verdict::LeaseLost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_lose_a_record_has_its_verdict() {
        let note = |why, at| {
            let when = "2026-01-01T00:00:00".parse().expect("a time");
            Some((Departure { why, reason: String::new(), when }, Revision(at)))
        };
        for (departure, reset, lease_alive, verdict) in [
            (note(Why::Admin, 9), None, true, Verdict::Evicted),
            (note(Why::Admin, 9), None, false, Verdict::Evicted),
            (note(Why::Admin, 8), None, false, Verdict::LeaseLost),
            (note(Why::Registry, 9), None, true, Verdict::Mute),
            (note(Why::Registry, 9), None, false, Verdict::LeaseLost),
            (note(Why::Registry, 3), None, true, Verdict::Evicted),
            (None, Some(9), true, Verdict::Reset),
            (None, Some(8), true, Verdict::Evicted),
            (None, None, true, Verdict::Evicted),
            (None, None, false, Verdict::LeaseLost),
        ] {
            let evidence = Evidence { written: Revision(8), departure, reset: reset.map(Revision), lease_alive };
            assert_eq!(judge(&evidence), verdict, "{evidence:?}");
        }
    }
}
