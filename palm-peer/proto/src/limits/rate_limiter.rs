//! A fixed-window rate limiter.

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// Limits events to a maximum per second.
#[derive(Debug)]
pub struct RateLimiter {
    max: u32,
    began: Instant,
    count: u32,
}

impl RateLimiter {
    /// Creates a limiter for `max` events per second; the first second begins `now`.
    pub fn new(max: u32, now: Instant) -> Self {
        Self {
            max,
            began: now,
            count: 0,
        }
    }

    /// Counts an event. Returns whether it is within the limit.
    pub fn try_acquire(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.began) > SECOND {
            self.began = now;
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.count <= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_admits_the_limit_again() {
        let start = Instant::now();
        let mut allowance = RateLimiter::new(2, start);
        let try_acquire = [0, 500, 1000, 1001, 1002, 1003]
            .map(|ms| allowance.try_acquire(start + Duration::from_millis(ms)));
        assert_eq!(try_acquire, [true, true, false, true, true, false]);
    }
}
