//! How long to wait before trying again.

use std::time::Duration;

/// The wait before attempt `attempt` (from 0): doubles from `first` up to `most`, and then loses up to half of itself
/// by `random` (0 to 1), so that those who failed together do not come back together ("equal jitter").
#[must_use]
pub fn backoff(attempt: u32, first: Duration, max: Duration, random: f64) -> Duration {
    full_jitter(attempt, first, max, random.clamp(0.0, 1.0) / 2.0)
}

/// As [`backoff`], but loses up to all of itself ("full jitter"): for what the whole mesh waits for, such as etcd, which all
/// would ask at once when it is back.
#[must_use]
pub fn full_jitter(attempt: u32, first: Duration, max: Duration, random: f64) -> Duration {
    let doubled = first.saturating_mul(2_u32.saturating_pow(attempt.min(30)));
    doubled.min(max).mul_f64(1.0 - random.clamp(0.0, 1.0))
}

/// A link that held for so long is not of a server that always ends its links.
pub const HELD: Duration = Duration::from_secs(10);

/// How long to wait before looking whether a process is gone whose link has ended, when `ends` links to it in a row did not
/// hold: not at all at first; but who lets everybody in and ends it again shall not keep us busy.
#[must_use]
pub fn wait_after_end(ends: u32, random: f64) -> Duration {
    match ends {
        0 | 1 => Duration::ZERO,
        ends => backoff(ends - 2, Duration::from_millis(50), Duration::from_secs(5), random),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_starts_at_zero_and_grows_to_minutes() {
        assert_eq!([0, 1, 2, 3].map(|ends| wait_after_end(ends, 0.0).as_millis()), [0, 0, 50, 100]);
        let hundred: Duration = (0..100).map(|ends| wait_after_end(ends, 1.0)).sum();
        assert!(hundred > Duration::from_secs(180), "{hundred:?}");
    }

    #[test]
    fn waits_double_up_to_a_bound_and_are_spread() {
        let ms = Duration::from_millis;
        for (attempt, random, wait) in
            [(0, 0.0, ms(100)), (1, 0.0, ms(200)), (2, 1.0, ms(200)), (9, 0.0, ms(2000)), (4_000_000, 0.5, ms(1500))]
        {
            assert_eq!(backoff(attempt, ms(100), ms(2000), random), wait, "{attempt} {random}");
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
        assert!(tenths.iter().all(|waits| (60..150).contains(waits)), "{tenths:?}");
    }
}
