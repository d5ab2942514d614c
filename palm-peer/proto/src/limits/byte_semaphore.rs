//! Who has room of which there is not enough for all, and who waits for it, in the order in which they asked.

use std::collections::VecDeque;

/// So much room, given out in turns.
#[derive(Debug)]
pub struct ByteSemaphore {
    most: u64,
    held: u64,
    /// Who waits, and for how much.
    waiting: VecDeque<(u64, u64)>,
}

impl ByteSemaphore {
    /// As much as `most` can be held at once; a single one may always hold more.
    pub fn new(most: u64) -> Self {
        Self { most, held: 0, waiting: VecDeque::new() }
    }

    /// `who` asks for so much, or asks again for what it waits for; says whether it has it now.
    pub fn ask(&mut self, who: u64, much: u64) -> bool {
        let place = self.waiting.iter().position(|(other, _)| *other == who);
        match place {
            None if self.waiting.is_empty() && self.fits(much) => {}
            Some(0) if self.fits(much) => drop(self.waiting.pop_front()),
            Some(_) => return false,
            None => {
                self.waiting.push_back((who, much));
                return false;
            }
        }
        self.held += much;
        true
    }

    /// So much is not held any more.
    pub fn give_back(&mut self, much: u64) {
        self.held = self.held.saturating_sub(much);
    }

    /// `who` does not wait any more.
    pub fn leave(&mut self, who: u64) {
        self.waiting.retain(|(other, _)| *other != who);
    }

    /// Whose turn it is, if there is room now: it is to ask again.
    pub fn next(&self) -> Option<u64> {
        self.waiting.front().filter(|(_, much)| self.fits(*much)).map(|(who, _)| *who)
    }

    /// Whether somebody waits.
    pub fn are_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn fits(&self, much: u64) -> bool {
        self.held == 0 || self.held.saturating_add(much) <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_are_served_in_order_even_if_a_later_one_fits() {
        let mut turns = ByteSemaphore::new(10);
        assert!(turns.ask(1, 6) && turns.ask(2, 4));
        assert!(!turns.ask(3, 5) && !turns.ask(4, 1));
        turns.give_back(4);
        assert_eq!(turns.next(), None);
        assert!(!turns.ask(4, 1), "there is room for it, but it is not its turn");
        turns.give_back(6);
        assert_eq!(turns.next(), Some(3));
        assert!(turns.ask(3, 5));
        assert_eq!(turns.next(), Some(4));
        assert!(turns.ask(4, 1) && !turns.are_awaited());
    }

    #[test]
    fn a_cancelled_waiter_lets_the_next_proceed() {
        let mut turns = ByteSemaphore::new(10);
        assert!(turns.ask(1, 10));
        assert!(!turns.ask(2, 10) && !turns.ask(3, 1) && !turns.ask(2, 10));
        turns.leave(2);
        turns.give_back(10);
        assert!(turns.ask(3, 1) && !turns.are_awaited());
    }

    #[test]
    fn a_single_waiter_may_exceed_the_capacity() {
        let mut turns = ByteSemaphore::new(10);
        assert!(turns.ask(1, 50));
        assert!(!turns.ask(2, 1));
        turns.give_back(50);
        assert!(turns.ask(2, 1));
        assert!(!turns.ask(3, 50));
    }

    #[test]
    fn a_million_finished_waiters_leave_no_state() {
        let mut turns = ByteSemaphore::new(10);
        for who in 0..1_000_000 {
            if turns.ask(who, 4) {
                turns.give_back(4);
            }
            assert!(turns.ask(who, 10) && !turns.ask(who + 1, 10));
            turns.leave(who + 1);
            turns.give_back(10);
        }
        assert_eq!((turns.held, turns.waiting.len()), (0, 0));
    }
}
