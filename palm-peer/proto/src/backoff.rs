//! Backoff: how long to wait before trying again.

use std::time::{Duration, Instant};

/// How the waits between attempts grow: they double from `first` up to `max`, and each is shortened
/// by a random part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    jitter: Jitter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Jitter {
    Equal,
    Full,
}

impl Backoff {
    /// Each wait is shortened by up to half ("equal jitter"), so that peers that failed together do
    /// not retry together.
    pub const fn equal_jitter(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            jitter: Jitter::Equal,
        }
    }

    /// Each wait is shortened by up to all of it ("full jitter"): for what the whole mesh waits
    /// for, such as etcd, which all peers would ask at once when it is back.
    pub const fn full_jitter(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            jitter: Jitter::Full,
        }
    }

    /// Returns the wait after an attempt that failed, when `failures` failed before it, by
    /// `random` (0 to 1).
    pub fn wait(&self, failures: u32, random: f64) -> Duration {
        match self.jitter {
            Jitter::Equal => backoff(failures, self.first, self.max, random),
            Jitter::Full => full_jitter(failures, self.first, self.max, random),
        }
    }
}

/// Returns the wait before attempt `attempt` (from 0): it doubles from `first` up to `max`, and is
/// then shortened by up to half, by `random` (0 to 1), so that peers that failed together do not
/// retry together ("equal jitter").
#[must_use]
pub fn backoff(attempt: u32, first: Duration, max: Duration, random: f64) -> Duration {
    full_jitter(attempt, first, max, random.clamp(0.0, 1.0) / 2.0)
}

/// As [`backoff`], but shortened by up to its whole length ("full jitter"): for waits of the whole
/// mesh, such as for an etcd that all peers would call at once when it is back.
#[must_use]
pub fn full_jitter(attempt: u32, first: Duration, max: Duration, random: f64) -> Duration {
    let doubled = first.saturating_mul(2_u32.saturating_pow(attempt.min(30)));
    doubled.min(max).mul_f64(1.0 - random.clamp(0.0, 1.0))
}

/// A link that stays open this long does not count as one that its server closed at once.
const HELD: Duration = Duration::from_secs(10);

/// Counts the links to a server in a row that did not stay open.
#[derive(Debug, Default)]
pub struct LinkEnds {
    count: u32,
    /// When one ended last.
    last: Option<Instant>,
}

impl LinkEnds {
    /// Counts a link that has ended. Returns how long to wait before checking whether the process
    /// is gone: the first check is immediate; a server that accepts and closes every connection
    /// must not cause constant work.
    pub fn ended(&mut self, now: Instant, random: f64) -> Duration {
        let held = self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) > HELD);
        self.count = if held {
            0
        } else {
            self.count.saturating_add(1)
        };
        self.last = Some(now);
        match self.count {
            0 | 1 => Duration::ZERO,
            count => backoff(
                count - 2,
                Duration::from_millis(50),
                Duration::from_secs(5),
                random,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_starts_at_zero_and_grows_to_minutes() {
        let mut now = Instant::now();
        let mut ends = LinkEnds::default();
        assert_eq!(
            [(); 3].map(|()| ends.ended(now, 0.0).as_millis()),
            [0, 50, 100]
        );
        let hundred: Duration = (0..100).map(|_| ends.ended(now, 1.0)).sum();
        assert!(hundred > Duration::from_secs(180), "{hundred:?}");
        now += HELD + Duration::from_millis(1);
        assert_eq!(
            [(); 3].map(|()| ends.ended(now, 0.0).as_millis()),
            [0, 0, 50],
            "one that held is looked into at once"
        );
    }

    #[test]
    fn waits_double_up_to_a_bound_and_are_spread() {
        let ms = Duration::from_millis;
        for (attempt, random, wait) in [
            (0, 0.0, ms(100)),
            (1, 0.0, ms(200)),
            (2, 1.0, ms(200)),
            (9, 0.0, ms(2000)),
            (4_000_000, 0.5, ms(1500)),
        ] {
            assert_eq!(
                backoff(attempt, ms(100), ms(2000), random),
                wait,
                "{attempt} {random}"
            );
        }
    }

    /// A thousand peers whose etcd is back ask it at moments that are spread over the whole wait.
    #[test]
    fn full_jitter_spreads_a_thousand_over_the_whole_wait() {
        let mut random = fastrand::Rng::with_seed(1);
        let max = Duration::from_secs(3);
        let mut tenths = [0; 10];
        for _ in 0..1000 {
            let wait = full_jitter(20, Duration::from_millis(50), max, random.f64());
            assert!(wait <= max);
            tenths[usize::try_from(wait.as_millis() / 301).unwrap_or(9)] += 1;
        }
        assert!(
            tenths.iter().all(|waits| (60..150).contains(waits)),
            "{tenths:?}"
        );
    }
}
