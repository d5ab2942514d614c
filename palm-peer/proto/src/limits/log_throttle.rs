//! Limits how often a repeated event is logged. Everything that remote peers or keys in etcd can
//! cause is logged through this, so that neither can fill a log.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    time::{Duration, Instant},
};

/// The shortest time between two lines about one key.
pub const INTERVAL: Duration = Duration::from_secs(60);

/// The default maximum of different keys logged within an interval.
const MAX_KEYS: usize = 64;

/// Lets each key be logged at once, and then once per [`INTERVAL`] while it repeats; and only so
/// many different keys within an interval. Suppressed lines are counted, and the next line
/// reports their number.
#[derive(Debug)]
pub struct LogThrottle<K> {
    logged: HashMap<K, Instant>,
    max_keys: usize,
    suppressed: u64,
}

/// The number of lines suppressed since the last one, to be appended to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suppressed(u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => f.write_str(" (1 similar line before this was not logged)"),
            count => write!(f, " ({count} similar lines before this were not logged)"),
        }
    }
}

impl<K> Default for LogThrottle<K> {
    fn default() -> Self {
        Self::with_max_keys(MAX_KEYS)
    }
}

impl<K> LogThrottle<K> {
    /// Creates a throttle for so many different keys within an interval.
    #[must_use]
    pub fn with_max_keys(max_keys: usize) -> Self {
        Self {
            logged: HashMap::new(),
            max_keys,
            suppressed: 0,
        }
    }
}

impl<K: Eq + Hash> LogThrottle<K> {
    /// Returns whether to log this now and, if so, how many lines were suppressed
    /// since the last one.
    pub fn should_log(&mut self, key: K, now: Instant) -> Option<Suppressed> {
        let is_recent = |last: &Instant| now.duration_since(*last) < INTERVAL;
        // Scans all keys only when that decides: remote peers may cause this often.
        let known = self.logged.get(&key).is_some_and(is_recent);
        if !known && self.logged.len() >= self.max_keys {
            self.logged.retain(|_, last| is_recent(last));
        }
        if known || self.logged.len() >= self.max_keys {
            self.suppressed += 1;
            return None;
        }
        self.logged.insert(key, now);
        Some(Suppressed(std::mem::take(&mut self.suppressed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_event_is_logged_once_a_minute_with_its_count() {
        let start = Instant::now();
        let mut log = LogThrottle::default();
        let lines =
            (0..300).filter_map(|s| log.should_log("stand", start + Duration::from_secs(s)));
        assert_eq!(
            lines.map(|Suppressed(count)| count).collect::<Vec<_>>(),
            [0, 59, 59, 59, 59]
        );
        let other = log
            .should_log("publish", start + Duration::from_secs(299))
            .expect("another thing");
        assert_eq!(
            other.to_string(),
            " (59 similar lines before this were not logged)"
        );
    }

    #[test]
    fn a_million_different_events_cost_few_lines_and_memory() {
        let start = Instant::now();
        let mut log = LogThrottle::with_max_keys(8);
        let lines = (0..1_000_000)
            .filter(|key| log.should_log(*key, start).is_some())
            .count();
        assert_eq!((lines, log.logged.len()), (8, 8));
        let later = log.should_log(0, start + INTERVAL).expect("another minute");
        assert_eq!(later, Suppressed(999_992));
        assert_eq!(log.logged.len(), 1, "what is old is forgotten");
    }
}
