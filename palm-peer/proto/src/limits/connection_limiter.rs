//! Limits on connections: in total, per address, and by the file descriptors that are left.

use crate::zmtp::RejectReason;
use std::{collections::HashMap, net::IpAddr};

/// How many descriptors the listener leaves to the rest of the program, at most.
const MAX_LEFT_TO_PROGRAM: u64 = 32;

/// Returns whether there are descriptors for one more connection, with this limit and this lowest
/// free number: a quarter of them, at most 32, is left to the rest of the program.
#[must_use]
pub fn has_descriptors(limit: u64, lowest_free: u64) -> bool {
    lowest_free < limit - MAX_LEFT_TO_PROGRAM.min(limit / 4)
}

/// How many descriptors a leader's probes leave to the rest of the program, at most: fewer than the
/// listener does, so that clients that exhaust the listener do not prevent probes.
const MAX_LEFT_BY_PROBES: u64 = 16;

/// How many descriptors a leader leaves to the rest of the program when it keeps links open between
/// probes, at most.
const MAX_LEFT_BY_LINKS: u64 = 256;

/// As [`has_descriptors`], for a connection that a leader opens for a probe: an eighth, at
/// most 16, is left.
#[must_use]
pub fn may_open_probe(limit: u64, lowest_free: u64) -> bool {
    lowest_free < limit - MAX_LEFT_BY_PROBES.min(limit / 8)
}

/// Returns whether a leader may keep the link of a probe open: not when that leaves less than half
/// of the descriptors, or 256, to its clients.
#[must_use]
pub fn may_keep_link(limit: u64, lowest_free: u64) -> bool {
    lowest_free < limit - MAX_LEFT_BY_LINKS.min(limit / 2)
}

/// Counts the connections.
#[derive(Debug)]
pub struct ConnectionLimiter {
    max: usize,
    max_from_address: usize,
    all: usize,
    from: HashMap<IpAddr, usize>,
}

impl ConnectionLimiter {
    /// Creates a limiter for `max` connections at once, `max_from_address` of them
    /// from one address.
    #[must_use]
    pub fn new(max: usize, max_from_address: usize) -> Self {
        Self {
            max,
            max_from_address,
            all: 0,
            from: HashMap::new(),
        }
    }

    /// Admits a connection, for which [`leave`](Self::leave) must be called at its end.
    ///
    /// # Errors
    /// When a limit is reached.
    pub fn enter(&mut self, address: IpAddr) -> Result<(), RejectReason> {
        if self.all >= self.max {
            return Err(RejectReason::TooMany);
        }
        // A rejected address is not stored.
        if self.from.get(&address).copied().unwrap_or(0) >= self.max_from_address {
            return Err(RejectReason::TooManyFromAddress);
        }
        *self.from.entry(address).or_default() += 1;
        self.all += 1;
        Ok(())
    }

    /// An admitted connection has ended.
    pub fn leave(&mut self, address: IpAddr) {
        self.all -= 1;
        if let Some(from) = self.from.get_mut(&address) {
            *from -= 1;
            if *from == 0 {
                self.from.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[test]
    fn each_use_of_descriptors_leaves_some_for_the_next() {
        for (limit, link, connection, probe) in [
            (64, 32, 48, 56),
            (1024, 768, 992, 1008),
            (1 << 20, 1_048_320, 1_048_544, 1_048_560),
        ] {
            for (may, first) in [
                (may_keep_link as fn(u64, u64) -> bool, link),
                (has_descriptors, connection),
                (may_open_probe, probe),
            ] {
                assert!(
                    may(limit, first - 1) && !may(limit, first),
                    "{limit}, {first}"
                );
            }
        }
    }

    #[test]
    fn connections_are_limited_and_released_slots_are_reused() {
        let mut admission = ConnectionLimiter::new(3, 2);
        assert_eq!(admission.enter(address(1)), Ok(()));
        assert_eq!(admission.enter(address(1)), Ok(()));
        assert_eq!(
            admission.enter(address(1)),
            Err(RejectReason::TooManyFromAddress)
        );
        assert_eq!(admission.enter(address(2)), Ok(()));
        assert_eq!(admission.enter(address(3)), Err(RejectReason::TooMany));
        admission.leave(address(1));
        assert_eq!(admission.enter(address(1)), Ok(()));
        for last in [1, 1, 2] {
            admission.leave(address(last));
        }
        assert_eq!((admission.all, admission.from.len()), (0, 0));
    }

    #[test]
    fn nothing_is_left_of_a_million_addresses() {
        let mut admission = ConnectionLimiter::new(1_000, 2);
        let of = |number: u32| IpAddr::from(number.to_be_bytes());
        for number in 0..1_000_000 {
            assert_eq!(admission.enter(of(number)), Ok(()));
            if number >= 999 {
                assert_eq!(admission.enter(of(u32::MAX)), Err(RejectReason::TooMany));
                assert_eq!(
                    admission.from.len(),
                    1_000,
                    "a refused address is not remembered"
                );
                admission.leave(of(number - 999));
            }
        }
        (999_001..1_000_000).for_each(|number| admission.leave(of(number)));
        assert_eq!((admission.all, admission.from.len()), (0, 0));
        // One that is rejected for its address alone.
        let mut admission = ConnectionLimiter::new(1_000, 0);
        (0..1_000_000).for_each(|number| {
            assert_eq!(
                admission.enter(of(number)),
                Err(RejectReason::TooManyFromAddress)
            );
        });
        assert_eq!(admission.from.len(), 0);
    }
}
