//! Failing paths between two stages: the stage would reroute a message that is sent along one.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a path is avoided after a message had to be rerouted. Then a few messages show
/// whether it still fails.
const AVOIDED_FOR: Duration = Duration::from_secs(1);

/// How many reports are kept; beyond, the oldest are dropped. A stage may be hostile and
/// report anything.
const MAX_REPORTS: usize = 4096;

/// From one server to another.
type Path = (Uuid, Uuid);

/// The failing paths that stages reported.
#[derive(Debug, Default)]
pub(super) struct Detours {
    /// Until when each path is avoided.
    until: HashMap<Path, Instant>,
    /// The reports, oldest first, each with its expiry.
    reports: VecDeque<(Instant, Path)>,
}

impl Detours {
    /// Records that the server `by` rerouted a message that was meant for `from`.
    pub(super) fn add(&mut self, by: Uuid, from: Uuid, now: Instant) {
        let (path, until) = ((by, from), now + AVOIDED_FOR);
        self.until.insert(path, until);
        self.reports.push_back((until, path));
        while let Some((until, path)) = self.reports.front().copied()
            && (until <= now || self.reports.len() > MAX_REPORTS)
        {
            self.reports.pop_front();
            // There may be a later report for the same path.
            if self.until.get(&path) == Some(&until) {
                self.until.remove(&path);
            }
        }
    }

    /// Returns whether any path is avoided.
    pub(super) fn any(&self, now: Instant) -> bool {
        self.reports.back().is_some_and(|(until, _)| now < *until)
    }

    /// Returns whether to avoid the path from one server to another.
    pub(super) fn is_known(&self, from: Uuid, to: Uuid, now: Instant) -> bool {
        self.until
            .get(&(from, to))
            .is_some_and(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_path_is_avoided_in_its_direction_for_a_while() {
        let (now, [one, other]) = (Instant::now(), [1, 2].map(Uuid::from_u128));
        let mut detours = Detours::default();
        assert!(!detours.is_known(one, other, now));
        detours.add(one, other, now);
        assert!(detours.is_known(one, other, now) && !detours.is_known(other, one, now));
        assert!(!detours.is_known(one, other, now + AVOIDED_FOR));
        assert!(detours.any(now) && !detours.any(now + AVOIDED_FOR));
        detours.add(other, one, now + AVOIDED_FOR);
        assert_eq!(
            (detours.until.len(), detours.reports.len()),
            (1, 1),
            "what is over is forgotten"
        );
    }

    #[test]
    fn a_path_that_is_reported_again_is_avoided_longer() {
        let (now, [one, other, third]) = (Instant::now(), [1, 2, 3].map(Uuid::from_u128));
        let mut detours = Detours::default();
        detours.add(one, other, now);
        detours.add(one, other, now + AVOIDED_FOR / 2);
        detours.add(one, third, now + AVOIDED_FOR);
        assert!(detours.is_known(one, other, now + AVOIDED_FOR));
    }

    #[test]
    fn a_million_reports_cost_little_memory_and_time() {
        let (now, one) = (Instant::now(), Uuid::from_u128(1));
        let mut detours = Detours::default();
        for other in 0..1_000_000 {
            detours.add(one, Uuid::from_u128(other), now);
        }
        assert_eq!(
            (detours.until.len(), detours.reports.len()),
            (MAX_REPORTS, MAX_REPORTS)
        );
        assert!(
            detours.is_known(one, Uuid::from_u128(999_999), now),
            "the latest are remembered"
        );
        detours.add(one, one, now + AVOIDED_FOR);
        assert_eq!((detours.until.len(), detours.reports.len()), (1, 1));
    }
}
