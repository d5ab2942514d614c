//! How often something that repeats itself is worth a line in the log.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// How often one thing is logged at most.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// How many things are remembered; beyond, nothing more is logged until one is forgotten.
const MAX_REMEMBERED: usize = 256;

/// Lets each thing be logged at once, and then once in [`INTERVAL`] for as long as it repeats itself.
#[derive(Debug)]
pub struct LogInterval<K> {
    logged: HashMap<K, Instant>,
}

impl<K> Default for LogInterval<K> {
    fn default() -> Self {
        Self { logged: HashMap::new() }
    }
}

impl<K: Eq + Hash> LogInterval<K> {
    /// Whether to log this now.
    pub fn should_log(&mut self, key: K, now: Instant) -> bool {
        self.logged.retain(|_, last| now.duration_since(*last) < INTERVAL);
        if self.logged.contains_key(&key) || self.logged.len() >= MAX_REMEMBERED {
            return false;
        }
        self.logged.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_logged_at_once_and_then_once_a_minute() {
        let start = Instant::now();
        let mut log = LogInterval::default();
        let lines = (0..300).filter(|s| log.should_log("stand", start + Duration::from_secs(*s))).count();
        assert_eq!(lines, 5);
        assert!(log.should_log("publish", start + Duration::from_secs(299)), "another thing");
    }

    #[test]
    fn memory_is_bounded() {
        let start = Instant::now();
        let mut log = LogInterval::default();
        assert_eq!((0..10_000).filter(|key| log.should_log(*key, start)).count(), MAX_REMEMBERED);
        assert!(log.should_log(10_001, start + INTERVAL));
    }
}
