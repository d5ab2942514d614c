//! Whether etcd is still the one that was known: the same cluster, and a history that has only grown.
//!
//! Every answer of etcd's has the cluster's id in its header, and the revision of the store. A cluster that is restored
//! from a backup goes back to an earlier revision; nothing that was learnt of the revisions after it holds any more.
//!
//! **Which revisions can be compared.** Only those of answers that a quorum agreed on (ranges and transactions): such an answer is
//! at least as new as any that came *before it was asked for*. Answers that were asked for at the same time may come
//! in any order, so each is compared with what was known when its own request was sent. Renewals of leases, and what a watch
//! tells, are answered by one member alone, which may lag behind the others: their revisions prove nothing, and
//! are not given here. Their cluster is.
//!
//! **Which cluster is meant** is what the first answer says (with several endpoints, what most of them say). Another one that answers
//! at an endpoint is not believed. Only when the one that was known has not answered anywhere for `give_up_after`, while another did,
//! it is gone for good, as after a disaster: then the other is taken, as a new history. By then each lease is lost.

use crate::types::ids::Revision;
use std::{
    fmt,
    time::{Duration, Instant},
};

/// A cluster's id. Shown in hexadecimal, as etcd's own log does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What the header of an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which cluster answered.
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

/// What an answer says of etcd's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryStatus {
    /// All is as it was.
    Same,
    /// The history went back: what was known of revisions and absent keys is void. The answer is the first of the new one.
    WentBack {
        /// The highest revision that was known.
        from: Revision,
        /// The one that was found.
        to: Revision,
    },
    /// Another cluster is there to stay. The answer is the first of a new history.
    Replaced {
        /// The one that was known.
        known: ClusterId,
    },
    /// Another cluster answered: the answer must not be used.
    Foreign {
        /// The one that was known.
        known: ClusterId,
    },
    /// The answer belongs to a history that is over: it must not be used.
    Outdated,
}

/// What is known of etcd's history.
#[derive(Debug)]
pub struct EtcdHistory {
    give_up_after: Duration,
    cluster: Option<ClusterId>,
    seen: Revision,
    epoch: u64,
    /// Since when others answered, and the known cluster did not.
    foreign_since: Option<Instant>,
    /// Which cluster each endpoint belongs to, as far as it told.
    clusters: Vec<Option<ClusterId>>,
}

impl EtcdHistory {
    /// Nothing is known yet. A cluster that is gone is given up after `give_up_after`.
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

    /// To be kept with a request until its answer.
    #[must_use]
    pub fn sent(&self) -> Sent {
        Sent { epoch: self.epoch, seen: self.seen }
    }

    /// Before the first request: which cluster each endpoint says it belongs to. Most decide; of as many, the one that
    /// is named first in the settings, so that all peers decide alike.
    pub fn identify(&mut self, reported: &[Option<ClusterId>]) {
        self.clusters = reported.to_vec();
        self.cluster = self.cluster.or_else(|| most_frequent(reported.iter().flatten()));
    }

    /// Takes in the header of an answer from an endpoint.
    pub fn received(&mut self, endpoint: usize, sent: Sent, header: Header, now: Instant) -> HistoryStatus {
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
        let Some(revision) = header.revision else { return HistoryStatus::Same };
        if revision < sent.seen {
            let from = self.seen;
            self.begin(revision);
            return HistoryStatus::WentBack { from, to: revision };
        }
        self.seen = self.seen.max(revision);
        HistoryStatus::Same
    }

    /// Something else proves that the history of `epoch` is over, such as a key that was modified earlier than it was before.
    /// Whether this was new.
    pub fn went_back(&mut self, epoch: u64) -> bool {
        let new = epoch == self.epoch;
        if new {
            self.begin(Revision(0));
        }
        new
    }

    fn foreign(&mut self, known: ClusterId, header: Header, now: Instant) -> HistoryStatus {
        let since = *self.foreign_since.get_or_insert(now);
        let others = self.clusters.iter().flatten().filter(|cluster| **cluster != known);
        if now.duration_since(since) < self.give_up_after || most_frequent(others) != Some(header.cluster) {
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

/// The one that is there most often; of as many, the first.
fn most_frequent<'a>(ids: impl Iterator<Item = &'a ClusterId>) -> Option<ClusterId> {
    let mut counts: Vec<(ClusterId, usize)> = Vec::new();
    for id in ids {
        match counts.iter_mut().find(|(counted, _)| counted == id) {
            Some((_, count)) => *count += 1,
            None => counts.push((*id, 1)),
        }
    }
    // `max_by_key` gives the last of equals.
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: ClusterId = ClusterId(0xa);
    const OTHER: ClusterId = ClusterId(0xb);
    const PATIENCE: Duration = Duration::from_secs(10);

    fn header(cluster: ClusterId, revision: i64) -> Header {
        Header { cluster, revision: Some(Revision(revision)) }
    }

    /// Asks, and takes the answer in at once.
    fn answer(history: &mut EtcdHistory, endpoint: usize, header: Header, now: Instant) -> HistoryStatus {
        let sent = history.sent();
        history.received(endpoint, sent, header, now)
    }

    #[test]
    fn a_lower_revision_is_a_new_history_once() {
        let (mut history, now) = (EtcdHistory::new(1, PATIENCE), Instant::now());
        for revision in [5, 19, 19] {
            assert_eq!(answer(&mut history, 0, header(OURS, revision), now), HistoryStatus::Same);
        }
        let back = HistoryStatus::WentBack { from: Revision(19), to: Revision(13) };
        assert_eq!(answer(&mut history, 0, header(OURS, 13), now), back);
        assert_eq!(history.epoch(), 1);
        assert_eq!(answer(&mut history, 0, header(OURS, 14), now), HistoryStatus::Same);
    }

    #[test]
    fn answers_that_overtake_each_other_are_no_new_history() {
        let (mut history, now) = (EtcdHistory::new(1, PATIENCE), Instant::now());
        answer(&mut history, 0, header(OURS, 5), now);
        let (early, late) = (history.sent(), history.sent());
        assert_eq!(history.received(0, late, header(OURS, 9), now), HistoryStatus::Same);
        assert_eq!(history.received(0, early, header(OURS, 7), now), HistoryStatus::Same);
        assert_eq!(answer(&mut history, 0, header(OURS, 9), now), HistoryStatus::Same);
    }

    #[test]
    fn a_member_that_lags_is_no_new_history() {
        let (mut history, now) = (EtcdHistory::new(3, PATIENCE), Instant::now());
        answer(&mut history, 0, header(OURS, 50), now);
        let renewal = Header { cluster: OURS, revision: None };
        assert_eq!(answer(&mut history, 2, renewal, now), HistoryStatus::Same);
    }

    #[test]
    fn late_answers_of_an_old_history_are_ignored() {
        let (mut history, now) = (EtcdHistory::new(1, PATIENCE), Instant::now());
        answer(&mut history, 0, header(OURS, 50), now);
        let old = history.sent();
        answer(&mut history, 0, header(OURS, 10), now);
        assert_eq!(history.received(0, old, header(OURS, 51), now), HistoryStatus::Outdated);
        assert_eq!(answer(&mut history, 0, header(OURS, 11), now), HistoryStatus::Same);
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
        assert_eq!(answer(&mut history, 0, header(OURS, 50), at(10)), HistoryStatus::Same);
        for s in 11..21 {
            assert_eq!(answer(&mut history, 0, header(OTHER, 3), at(s)), foreign);
        }
        assert_eq!(answer(&mut history, 0, header(OTHER, 3), at(21)), HistoryStatus::Replaced { known: OURS });
        assert_eq!(history.epoch(), 1);
        assert_eq!(answer(&mut history, 0, header(OTHER, 4), at(22)), HistoryStatus::Same);
        assert_eq!(answer(&mut history, 0, header(OURS, 50), at(23)), HistoryStatus::Foreign { known: OTHER });
    }

    #[test]
    fn one_foreign_endpoint_of_three_is_never_taken() {
        let (mut history, start) = (EtcdHistory::new(3, PATIENCE), Instant::now());
        history.identify(&[Some(OTHER), Some(OURS), Some(OURS)]);
        for s in 0..100 {
            let now = start + Duration::from_secs(s);
            assert_eq!(answer(&mut history, 0, header(OTHER, 3), now), HistoryStatus::Foreign { known: OURS });
            assert_eq!(answer(&mut history, 1, header(OURS, 9), now), HistoryStatus::Same);
        }
    }

    #[test]
    fn a_tie_between_clusters_goes_to_the_first_endpoint() {
        let mut history = EtcdHistory::new(2, PATIENCE);
        history.identify(&[None, None]);
        assert!(!history.is_known());
        history.identify(&[Some(OTHER), Some(OURS)]);
        assert_eq!(answer(&mut history, 1, header(OURS, 9), Instant::now()), HistoryStatus::Foreign { known: OTHER });
    }
}
