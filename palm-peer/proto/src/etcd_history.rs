//! Detects that etcd is another cluster than before, or that its history went back.
//!
//! Every response of etcd has the cluster's id and the revision of the store in its header. A
//! cluster that is restored from a backup goes back to an earlier revision; nothing learnt from
//! later revisions holds any more.
//!
//! **Which revisions can be compared.** Only those of linearizable responses (ranges and
//! transactions): such a response is at least as new as any that arrived *before its request was
//! sent*. Concurrent requests may be answered in any order, so each response is compared with
//! what was known when its own request was sent. Lease renewals and watch events come from one
//! member, which may lag behind the others: their revisions prove nothing and are not passed in.
//! Their cluster id is.
//!
//! **Which cluster is the right one** is decided by the first response (with several endpoints, by
//! most of them). Another cluster that answers at an endpoint is rejected. Only when the known
//! cluster has not answered anywhere for `give_up_after`, while another did, is it given up, as
//! after a disaster: the other one is then accepted as a new history. By then every lease is lost.

use crate::types::ids::Revision;
use std::{
    fmt,
    time::{Duration, Instant},
};

/// A cluster's id. Displayed in hexadecimal, as in etcd's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// The header of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The cluster that answered.
    pub cluster: ClusterId,
    /// The revision of the store, if a quorum agreed on it.
    pub revision: Option<Revision>,
}

/// What was known when a request was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    epoch: u64,
    seen: Revision,
}

/// What a response shows about etcd's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryStatus {
    /// Nothing changed.
    Same,
    /// The history went back: what was known about revisions and absent keys is void. This response
    /// is the first of the new history.
    WentBack {
        /// The highest revision that was known.
        from: Revision,
        /// The one that was found.
        to: Revision,
    },
    /// Another cluster has replaced the known one. This response is the first of a new history.
    Replaced {
        /// The one that was known.
        known: ClusterId,
    },
    /// Another cluster answered: the response must not be used.
    Foreign {
        /// The one that was known.
        known: ClusterId,
    },
    /// The response belongs to a history that is over: it must not be used.
    Outdated,
}

/// What is known about etcd's history.
#[derive(Debug)]
pub struct EtcdHistory {
    give_up_after: Duration,
    cluster: Option<ClusterId>,
    seen: Revision,
    epoch: u64,
    /// Since when other clusters have answered, and the known one has not.
    foreign_since: Option<Instant>,
    /// The cluster of each endpoint, where known.
    clusters: Vec<Option<ClusterId>>,
}

impl EtcdHistory {
    /// Returns an empty history. A cluster that stops answering is given up after `give_up_after`.
    #[must_use]
    pub fn new(endpoints: usize, give_up_after: Duration) -> Self {
        Self {
            give_up_after,
            cluster: None,
            seen: Revision(0),
            epoch: 0,
            foreign_since: None,
            clusters: vec![None; endpoints],
        }
    }

    /// Whether any cluster is known.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.cluster.is_some()
    }

    /// Counts the histories: revisions of different epochs cannot be compared.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns what is known now, to be kept with a request until its response.
    #[must_use]
    pub fn sent(&self) -> Sent {
        Sent {
            epoch: self.epoch,
            seen: self.seen,
        }
    }

    /// Takes the cluster that each endpoint reports, before the first request. The majority
    /// decides; in a tie, the one that is first in the settings, so that all peers decide alike.
    pub fn identify(&mut self, reported: &[Option<ClusterId>]) {
        self.clusters = reported.to_vec();
        self.cluster = self
            .cluster
            .or_else(|| most_frequent(reported.iter().flatten()));
    }

    /// Checks the header of a response from an endpoint.
    pub fn received(
        &mut self,
        endpoint: usize,
        sent: Sent,
        header: Header,
        now: Instant,
    ) -> HistoryStatus {
        if let Some(cluster) = self.clusters.get_mut(endpoint) {
            *cluster = Some(header.cluster);
        }
        let known = *self.cluster.get_or_insert(header.cluster);
        if header.cluster != known {
            return self.foreign(known, header, now);
        }
        self.foreign_since = None;
        if sent.epoch != self.epoch {
            return HistoryStatus::Outdated;
        }
        let Some(revision) = header.revision else {
            return HistoryStatus::Same;
        };
        if revision < sent.seen {
            let from = self.seen;
            self.begin(revision);
            return HistoryStatus::WentBack { from, to: revision };
        }
        self.seen = self.seen.max(revision);
        HistoryStatus::Same
    }

    /// Records other proof that the history of `epoch` is over, such as a key with an older version
    /// than before. Returns whether this was news.
    pub fn went_back(&mut self, epoch: u64) -> bool {
        let new = epoch == self.epoch;
        if new {
            self.begin(Revision(0));
        }
        new
    }

    fn foreign(&mut self, known: ClusterId, header: Header, now: Instant) -> HistoryStatus {
        let since = *self.foreign_since.get_or_insert(now);
        let others = self
            .clusters
            .iter()
            .flatten()
            .filter(|cluster| **cluster != known);
        if now.duration_since(since) < self.give_up_after
            || most_frequent(others) != Some(header.cluster)
        {
            return HistoryStatus::Foreign { known };
        }
        self.cluster = Some(header.cluster);
        self.foreign_since = None;
        self.begin(header.revision.unwrap_or(Revision(0)));
        HistoryStatus::Replaced { known }
    }

    fn begin(&mut self, seen: Revision) {
        self.seen = seen;
        self.epoch += 1;
    }
}

/// Returns the most frequent id; in a tie, the first.
fn most_frequent<'a>(ids: impl Iterator<Item = &'a ClusterId>) -> Option<ClusterId> {
    let mut counts: Vec<(ClusterId, usize)> = Vec::new();
    for id in ids {
        match counts.iter_mut().find(|(counted, _)| counted == id) {
            Some((_, count)) => *count += 1,
            None => counts.push((*id, 1)),
        }
    }
    // `max_by_key` returns the last of equals.
    counts
        .into_iter()
        .rev()
        .max_by_key(|(_, count)| *count)
        .map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: ClusterId = ClusterId(0xa);
    const OTHER: ClusterId = ClusterId(0xb);
    const PATIENCE: Duration = Duration::from_secs(10);

    fn header(cluster: ClusterId, revision: i64) -> Header {
        Header {
            cluster,
            revision: Some(Revision(revision)),
        }
    }

    /// Asks, and takes the answer in at once.
    fn answer(
        history: &mut EtcdHistory,
        endpoint: usize,
        header: Header,
        now: Instant,
    ) -> HistoryStatus {
        let sent = history.sent();
        history.received(endpoint, sent, header, now)
    }

    #[test]
    fn a_lower_revision_is_a_new_history_once() {
        let (mut history, now) = (EtcdHistory::new(1, PATIENCE), Instant::now());
        for revision in [5, 19, 19] {
            assert_eq!(
                answer(&mut history, 0, header(OURS, revision), now),
                HistoryStatus::Same
            );
        }
        let back = HistoryStatus::WentBack {
            from: Revision(19),
            to: Revision(13),
        };
        assert_eq!(answer(&mut history, 0, header(OURS, 13), now), back);
        assert_eq!(history.epoch(), 1);
        assert_eq!(
            answer(&mut history, 0, header(OURS, 14), now),
            HistoryStatus::Same
        );
    }

    #[test]
    fn answers_that_overtake_each_other_are_no_new_history() {
        let (mut history, now) = (EtcdHistory::new(1, PATIENCE), Instant::now());
        answer(&mut history, 0, header(OURS, 5), now);
        let (early, late) = (history.sent(), history.sent());
        assert_eq!(
            history.received(0, late, header(OURS, 9), now),
            HistoryStatus::Same
        );
        assert_eq!(
            history.received(0, early, header(OURS, 7), now),
            HistoryStatus::Same
        );
        assert_eq!(
            answer(&mut history, 0, header(OURS, 9), now),
            HistoryStatus::Same
        );
    }

    #[test]
    fn a_member_that_lags_is_no_new_history() {
        let (mut history, now) = (EtcdHistory::new(3, PATIENCE), Instant::now());
        answer(&mut history, 0, header(OURS, 50), now);
        let renewal = Header {
            cluster: OURS,
            revision: None,
        };
        assert_eq!(answer(&mut history, 2, renewal, now), HistoryStatus::Same);
    }

    #[test]
    fn late_answers_of_an_old_history_are_ignored() {
        let (mut history, now) = (EtcdHistory::new(1, PATIENCE), Instant::now());
        answer(&mut history, 0, header(OURS, 50), now);
        let old = history.sent();
        answer(&mut history, 0, header(OURS, 10), now);
        assert_eq!(
            history.received(0, old, header(OURS, 51), now),
            HistoryStatus::Outdated
        );
        assert_eq!(
            answer(&mut history, 0, header(OURS, 11), now),
            HistoryStatus::Same
        );
        assert!(!history.went_back(0), "the epoch is over already");
        assert!(history.went_back(1));
    }

    #[test]
    fn another_cluster_is_refused_until_ours_was_away_for_long() {
        let (mut history, start) = (EtcdHistory::new(1, PATIENCE), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        answer(&mut history, 0, header(OURS, 50), start);
        let foreign = HistoryStatus::Foreign { known: OURS };
        for s in 1..10 {
            assert_eq!(answer(&mut history, 0, header(OTHER, 3), at(s)), foreign);
        }
        assert_eq!(
            answer(&mut history, 0, header(OURS, 50), at(10)),
            HistoryStatus::Same
        );
        for s in 11..21 {
            assert_eq!(answer(&mut history, 0, header(OTHER, 3), at(s)), foreign);
        }
        assert_eq!(
            answer(&mut history, 0, header(OTHER, 3), at(21)),
            HistoryStatus::Replaced { known: OURS }
        );
        assert_eq!(history.epoch(), 1);
        assert_eq!(
            answer(&mut history, 0, header(OTHER, 4), at(22)),
            HistoryStatus::Same
        );
        assert_eq!(
            answer(&mut history, 0, header(OURS, 50), at(23)),
            HistoryStatus::Foreign { known: OTHER }
        );
    }

    #[test]
    fn one_foreign_endpoint_of_three_is_never_taken() {
        let (mut history, start) = (EtcdHistory::new(3, PATIENCE), Instant::now());
        history.identify(&[Some(OTHER), Some(OURS), Some(OURS)]);
        for s in 0..100 {
            let now = start + Duration::from_secs(s);
            assert_eq!(
                answer(&mut history, 0, header(OTHER, 3), now),
                HistoryStatus::Foreign { known: OURS }
            );
            assert_eq!(
                answer(&mut history, 1, header(OURS, 9), now),
                HistoryStatus::Same
            );
        }
    }

    #[test]
    fn a_tie_between_clusters_goes_to_the_first_endpoint() {
        let mut history = EtcdHistory::new(2, PATIENCE);
        history.identify(&[None, None]);
        assert!(!history.is_known());
        history.identify(&[Some(OTHER), Some(OURS)]);
        assert_eq!(
            answer(&mut history, 1, header(OURS, 9), Instant::now()),
            HistoryStatus::Foreign { known: OTHER }
        );
    }
}
