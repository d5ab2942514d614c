//! When to log that a certificate is about to expire.

use std::time::Duration;

/// How long before the expiry of a certificate the warnings begin.
pub const WARN_BEFORE: Duration = Duration::from_secs(7 * DAY);

const DAY: u64 = 24 * 60 * 60;

/// The state of a certificate's validity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryStatus {
    /// It is valid for longer than [`WARN_BEFORE`].
    Valid,
    /// It expires soon.
    ExpiresIn(Duration),
    /// It has expired.
    Expired,
}

/// Returns the status of a certificate that expires at this time, and the time until the next
/// check: a day, or less if it expires before. Both times are counted from the same moment.
#[must_use]
pub fn check_expiry(now: Duration, expires: Option<Duration>) -> (ExpiryStatus, Duration) {
    let day = Duration::from_secs(DAY);
    let Some(expires) = expires else {
        return (ExpiryStatus::Valid, day);
    };
    // Valid up to and including its last second.
    match expires.checked_sub(now) {
        Some(left) if left > WARN_BEFORE => (
            ExpiryStatus::Valid,
            day.min(left.saturating_sub(WARN_BEFORE)),
        ),
        Some(left) => (
            ExpiryStatus::ExpiresIn(left),
            day.min(left + Duration::from_secs(1)),
        ),
        None => (ExpiryStatus::Expired, day),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_checked_daily_and_when_they_expire() {
        let now = Duration::from_secs(1_000_000_000);
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(DAY));
        for (expires, status, next) in [
            (None, ExpiryStatus::Valid, day),
            (Some(now + 30 * day), ExpiryStatus::Valid, day),
            (Some(now + 7 * day + hour), ExpiryStatus::Valid, hour),
            (Some(now + 7 * day), ExpiryStatus::ExpiresIn(7 * day), day),
            (
                Some(now + hour),
                ExpiryStatus::ExpiresIn(hour),
                hour + Duration::from_secs(1),
            ),
            (Some(now.saturating_sub(hour)), ExpiryStatus::Expired, day),
        ] {
            assert_eq!(check_expiry(now, expires), (status, next), "{expires:?}");
        }
    }
}
