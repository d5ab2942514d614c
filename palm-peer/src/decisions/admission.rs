//! Who may come in: how many connections there are, from where, and how often a refusal is worth a line in the log.

use super::zmtp::Refusal;
use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    time::{Duration, Instant},
};

/// How often at most one address is written of.
const QUIET: Duration = Duration::from_secs(60);

/// Of how many addresses it is remembered when they were written of; beyond, nothing more is written until one is forgotten.
const REMEMBERED: usize = 1024;

/// How many descriptors the listener leaves to the program that it is part of, at most.
const MAX_LEFT_TO_PROGRAM: u64 = 32;

/// Whether there are descriptors for one more connection, where so many are allowed and the lowest free one has this number:
/// a quarter of them, 32 at most, is left to the rest of the program.
#[must_use]
pub fn has_descriptors(limit: u64, lowest_free: u64) -> bool {
    lowest_free < limit - MAX_LEFT_TO_PROGRAM.min(limit / 4)
}

/// Counts the connections.
#[derive(Debug)]
pub struct Admission {
    most: usize,
    most_from_address: usize,
    all: usize,
    from: HashMap<IpAddr, usize>,
}

impl Admission {
    /// Lets in `most` at once, `most_from_address` of them from one address.
    #[must_use]
    pub fn new(most: usize, most_from_address: usize) -> Self {
        Self { most, most_from_address, all: 0, from: HashMap::new() }
    }

    /// Lets one in, which must [`leave`](Self::leave) at its end.
    ///
    /// # Errors
    /// When there are as many as there may be.
    pub fn enter(&mut self, address: IpAddr) -> Result<(), Refusal> {
        if self.all >= self.most {
            return Err(Refusal::TooMany);
        }
        let from = self.from.entry(address).or_default();
        if *from >= self.most_from_address {
            return Err(Refusal::TooManyFromAddress);
        }
        *from += 1;
        self.all += 1;
        Ok(())
    }

    /// One that was let in has ended.
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

/// Keeps the log readable, whatever comes: each address, or whatever else `K` is, is written of once a minute at most.
#[derive(Debug)]
pub struct Quiet<K = IpAddr> {
    written: HashMap<K, Instant>,
}

impl<K> Default for Quiet<K> {
    fn default() -> Self {
        Self { written: HashMap::new() }
    }
}

impl<K: Hash + Eq> Quiet<K> {
    /// Whether to write of this address now.
    pub fn may_write(&mut self, address: K, now: Instant) -> bool {
        if self.written.get(&address).is_some_and(|last| now.duration_since(*last) < QUIET) {
            return false;
        }
        if self.written.len() >= REMEMBERED {
            self.written.retain(|_, last| now.duration_since(*last) < QUIET);
        }
        if self.written.len() >= REMEMBERED {
            return false;
        }
        self.written.insert(address, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[test]
    fn no_more_enter_than_may_and_who_leaves_makes_room() {
        let mut admission = Admission::new(3, 2);
        assert_eq!(admission.enter(address(1)), Ok(()));
        assert_eq!(admission.enter(address(1)), Ok(()));
        assert_eq!(admission.enter(address(1)), Err(Refusal::TooManyFromAddress));
        assert_eq!(admission.enter(address(2)), Ok(()));
        assert_eq!(admission.enter(address(3)), Err(Refusal::TooMany));
        admission.leave(address(1));
        assert_eq!(admission.enter(address(1)), Ok(()));
        for last in [1, 1, 2] {
            admission.leave(address(last));
        }
        assert_eq!((admission.all, admission.from.len()), (0, 0));
    }

    #[test]
    fn an_address_is_written_of_once_a_minute_and_memory_is_bounded() {
        let start = Instant::now();
        let mut quiet = Quiet::default();
        assert!(quiet.may_write(address(1), start));
        assert!(!quiet.may_write(address(1), start + QUIET / 2));
        assert!(quiet.may_write(address(1), start + QUIET));
        for host in 0..10_000_u32 {
            quiet.may_write(IpAddr::from(host.to_be_bytes()), start + QUIET);
        }
        assert!(quiet.written.len() <= REMEMBERED);
        assert!(quiet.may_write(address(9), start + 3 * QUIET));
    }
}
