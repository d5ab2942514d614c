//! How long to wait before trying again.

use std::time::Duration;

/// The wait before attempt `attempt` (from 0): doubles from `first` up to `most`, and then loses up to half of itself
/// by `random` (0 to 1), so that those who failed together do not come back together ("equal jitter").
#[must_use]
pub fn backoff(attempt: u32, first: Duration, most: Duration, random: f64) -> Duration {
    let doubled = first.saturating_mul(2_u32.saturating_pow(attempt.min(30)));
    doubled.min(most).mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_are_spread() {
        let ms = Duration::from_millis;
        for (attempt, random, wait) in
            [(0, 0.0, ms(100)), (1, 0.0, ms(200)), (2, 1.0, ms(200)), (9, 0.0, ms(2000)), (4_000_000, 0.5, ms(1500))]
        {
            assert_eq!(backoff(attempt, ms(100), ms(2000), random), wait, "{attempt} {random}");
        }
    }
}
