//! When to send a request a second time, to another endpoint.
//!
//! "The Tail at Scale" (Dean, Barroso, 2013): a request that takes much longer than usual is sent
//! to another replica as well. Most of them are answered sooner then, while the load hardly grows;
//! for an overloaded service, a budget bounds it.

use std::time::Duration;

/// The shortest delay: about the time of a short pause of etcd, such as for its disk.
const MIN_DELAY: Duration = Duration::from_millis(250);

/// How many times longer than usual a request takes before it is sent again.
const FACTOR: u32 = 8;

/// One of how many answers counts for the usual time.
const WEIGHT: u32 = 32;

/// How many requests pay for one that is sent again early.
const REQUESTS_PER_HEDGE: u32 = 10;

/// How many may be sent again early in a row.
const MAX_BURST: u32 = 10;

/// What is known of the requests to a service.
#[derive(Debug)]
pub struct Hedging {
    usual: Duration,
    budget: u32,
}

impl Default for Hedging {
    fn default() -> Self {
        Self {
            usual: Duration::ZERO,
            budget: MAX_BURST * REQUESTS_PER_HEDGE,
        }
    }
}

impl Hedging {
    /// Records a request that was answered after this time.
    pub fn answered(&mut self, took: Duration) {
        self.usual = (self.usual * (WEIGHT - 1) + took) / WEIGHT;
        self.budget = (self.budget + 1).min(MAX_BURST * REQUESTS_PER_HEDGE);
    }

    /// Returns after what time without an answer a request should be sent again, if the budget
    /// allows it then; `max` at most.
    #[must_use]
    pub fn delay(&self, max: Duration) -> Duration {
        MIN_DELAY.max(self.usual * FACTOR).min(max)
    }

    /// Takes one from the budget. Returns whether a request may be sent again before `max` is over.
    #[must_use]
    pub fn try_take(&mut self) -> bool {
        let rest = self.budget.checked_sub(REQUESTS_PER_HEDGE);
        self.budget = rest.unwrap_or(self.budget);
        rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const MAX: Duration = Duration::from_secs(1);

    #[test]
    fn the_delay_follows_the_usual_time_between_its_bounds() {
        let mut hedging = Hedging::default();
        assert_eq!(hedging.delay(MAX), MIN_DELAY);
        (0..1000).for_each(|_| hedging.answered(MS * 60));
        let delay = hedging.delay(MAX);
        assert!((MS * 400..MS * 500).contains(&delay), "{delay:?}");
        (0..1000).for_each(|_| hedging.answered(MAX));
        assert_eq!(hedging.delay(MAX), MAX);
        (0..1000).for_each(|_| hedging.answered(MS));
        assert_eq!(hedging.delay(MAX), MIN_DELAY);
    }

    #[test]
    fn an_overloaded_service_gets_a_tenth_more_requests() {
        let mut hedging = Hedging::default();
        let burst = (0..1000).filter(|_| hedging.try_take()).count();
        assert_eq!(burst, 10);
        let later = (0..1000).filter(|_| {
            hedging.answered(MAX);
            hedging.try_take()
        });
        assert_eq!(later.count(), 100);
    }
}
