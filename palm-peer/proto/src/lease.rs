//! Whether a lease is still held.

use std::time::{Duration, Instant};

/// Keeps track of one lease.
///
/// A lease counts as held until its TTL after the moment **before** the last renewal that succeeded
/// was sent: etcd counts from when it received it, which is later. So a holder that stops here
/// stops before etcd ends the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseClock {
    ttl: Duration,
    sent: Instant,
}

impl LeaseClock {
    /// Creates the clock of a lease whose grant was requested at `sent`, with the TTL
    /// that etcd returned.
    #[must_use]
    pub fn granted(sent: Instant, ttl: Duration) -> Self {
        Self { ttl, sent }
    }

    /// Records a successful renewal that was sent at `sent`. Answers may overtake each other; the
    /// latest request counts.
    pub fn renewed(&mut self, sent: Instant, ttl: Duration) {
        if sent >= self.sent {
            *self = Self { ttl, sent };
        }
    }

    /// Returns when the lease stops counting as held, unless it is renewed.
    #[must_use]
    pub fn held_until(&self) -> Instant {
        self.sent + self.ttl
    }

    /// Returns whether the lease counts as held.
    #[must_use]
    pub fn is_held(&self, now: Instant) -> bool {
        now < self.held_until()
    }

    /// Returns when to send the next renewal: a third of the TTL after the last, so
    /// that two may fail.
    #[must_use]
    pub fn renew_at(&self) -> Instant {
        self.sent + self.ttl / 3
    }

    /// Returns how long a renewal may be without an answer, from `now` on, until another member of
    /// etcd is asked as well: a third of what is left of the lease, so that three members are asked
    /// well before its end. No less than a tenth of the TTL, or a lease in doubt would have all
    /// members asked at once.
    #[must_use]
    pub fn hedge_after(&self, now: Instant) -> Duration {
        let left = self.held_until().saturating_duration_since(now);
        (left / 3).max(self.ttl / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(9);

    #[test]
    fn a_lease_is_held_for_its_ttl_after_the_last_renewal_was_sent() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut clock = LeaseClock::granted(start, TTL);
        assert_eq!(clock.renew_at(), at(3));
        assert!(clock.is_held(at(8)) && !clock.is_held(at(9)));
        clock.renewed(at(6), TTL);
        clock.renewed(at(3), TTL); // an older answer that arrives late changes nothing
        assert!(clock.is_held(at(14)) && !clock.is_held(at(15)));
        clock.renewed(at(8), Duration::ZERO);
        assert!(!clock.is_held(at(8)));
    }

    /// A third member is asked while a fourth of the TTL is left, though two do not answer.
    #[test]
    fn two_silent_members_leave_time_for_the_third() {
        for ttl in (2..60).map(Duration::from_secs) {
            let clock = LeaseClock::granted(Instant::now(), ttl);
            let mut now = clock.renew_at();
            for _ in 0..2 {
                now += clock.hedge_after(now);
            }
            let left = clock.held_until() - now;
            assert!(left >= ttl / 4, "{ttl:?}: {left:?}");
        }
        let clock = LeaseClock::granted(Instant::now(), TTL);
        assert_eq!(clock.hedge_after(clock.held_until() + TTL), TTL / 10);
    }

    /// Invariant: a lease that counts as held is held in etcd, whatever the delays, losses and
    /// reordering of requests and answers.
    #[test]
    fn a_lease_counted_as_held_is_held_in_two_thousand_runs() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        for seed in 0..2_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut clock = LeaseClock::granted(start, TTL);
            let mut expires = at(random.u64(0..500)) + TTL;
            let mut answers: Vec<(Instant, Instant)> = Vec::new();
            let mut sent = 0;
            for now in (0..60_000).step_by(500) {
                answers.retain(|(arrives, sent)| {
                    let due = *arrives <= at(now);
                    if due {
                        clock.renewed(*sent, TTL);
                    }
                    !due
                });
                if clock.is_held(at(now)) {
                    assert!(at(now) < expires, "seed {seed}");
                }
                if now >= sent + 3_000 && random.bool() {
                    sent = now;
                    let (there, back) = (random.u64(0..6_000), random.u64(0..6_000));
                    // What is too late is refused, and what is lost on the way back
                    // renewed all the same.
                    if at(now + there) < expires && random.u8(0..4) > 0 {
                        expires = expires.max(at(now + there) + TTL);
                        if random.bool() {
                            answers.push((at(now + there + back), at(now)));
                        }
                    }
                }
            }
        }
    }
}
