//! Waiting for conditions, and statistics of durations.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

/// The polling interval.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// Calls `look` every 10 ms until it returns `Some`, and returns the value.
///
/// # Panics
///
/// When `timeout` has passed without an answer; the message names `what`.
#[track_caller]
pub fn eventually<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {timeout:?}: {what}");
        thread::sleep(POLL);
    }
}

/// The statistics of measurements; displayed as one line of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// How many there were.
    pub count: usize,
    /// The middle one; of an even number, the upper of the two.
    pub median: Duration,
    /// The longest.
    pub worst: Duration,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |d: Duration| d.as_secs_f64() * 1e3;
        let (median, worst) = (millis(self.median), millis(self.worst));
        write!(
            f,
            "median {median:.1} ms, worst {worst:.1} ms of {}",
            self.count
        )
    }
}

/// Sorts `durations` and returns their median and maximum.
///
/// # Panics
///
/// When there are none.
pub fn stats(durations: &mut [Duration]) -> Stats {
    assert!(!durations.is_empty(), "no durations to sum up");
    durations.sort_unstable();
    Stats {
        count: durations.len(),
        median: durations[durations.len() / 2],
        worst: durations[durations.len() - 1],
    }
}

/// The middle one of `figures`; of an even number, the upper of the two; NaN when there are none.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_the_worst_is_the_longest() {
        let mut row = [30, 10, 20].map(Duration::from_millis);
        assert_eq!(
            stats(&mut row).to_string(),
            "median 20.0 ms, worst 30.0 ms of 3"
        );
    }

    #[test]
    #[should_panic(expected = "the impossible")]
    fn a_timeout_names_what_was_awaited() {
        eventually("the impossible", Duration::from_millis(30), || None::<()>);
    }
}
