//! Supervision of the library's own tasks: whether a failed task is restarted, and
//! when, or given up.

use super::backoff::backoff;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// With this many failures within [`WINDOW`], the process gives up.
pub(crate) const MAX_FAILURES: usize = 3;
/// How long a failure counts.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);
/// The wait after the first failure: short, because the lease must be renewed meanwhile.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// How to recover from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Restart the task after this time.
    Restart(Duration),
    /// The process's supervisor must restart it. Without one, the task restarts after this time.
    GiveUp(Duration),
}

/// Counts the failures of all tasks of one peer: one fault may end different tasks.
#[derive(Debug, Default)]
pub struct Supervision {
    failures: VecDeque<Instant>,
}

impl Supervision {
    /// Counts a failure. `random` is from 0 to 1.
    pub fn failed(&mut self, now: Instant, random: f64) -> Decision {
        self.failures
            .retain(|at| now.saturating_duration_since(*at) < WINDOW);
        let before = self.failures.len();
        if before + 1 >= MAX_FAILURES {
            // Older ones no longer matter.
            self.failures.pop_front();
            self.failures.push_back(now);
            return Decision::GiveUp(backoff(0, MAX_WAIT, MAX_WAIT, random));
        }
        self.failures.push_back(now);
        let attempt = u32::try_from(before).unwrap_or(u32::MAX);
        Decision::Restart(backoff(attempt, FIRST_WAIT, MAX_WAIT, random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_failure_within_a_minute_is_the_last() {
        let start = Instant::now();
        let mut supervision = Supervision::default();
        assert_eq!(
            supervision.failed(start, 0.0),
            Decision::Restart(FIRST_WAIT)
        );
        assert_eq!(
            supervision.failed(start + WINDOW / 2, 0.0),
            Decision::Restart(FIRST_WAIT * 2)
        );
        assert_eq!(
            supervision.failed(start + WINDOW * 3 / 4, 0.0),
            Decision::GiveUp(MAX_WAIT)
        );
        assert_eq!(
            supervision.failed(start + WINDOW, 0.0),
            Decision::GiveUp(MAX_WAIT),
            "where nobody listens"
        );
    }

    #[test]
    fn rare_failures_go_on_for_ever_in_bounded_memory() {
        let start = Instant::now();
        let mut supervision = Supervision::default();
        for failure in 0..1000 {
            let now = start + WINDOW * failure * 3 / 5;
            assert!(
                matches!(supervision.failed(now, 0.5), Decision::Restart(wait) if wait <= FIRST_WAIT * 2),
                "{failure}"
            );
            assert!(supervision.failures.len() < MAX_FAILURES);
        }
        for _ in 0..1000 {
            supervision.failed(start + WINDOW * 1000, 0.5);
        }
        assert!(supervision.failures.len() < MAX_FAILURES);
    }
}
