//! A FIFO counting semaphore over bytes, as plain state: waking the waiters is the caller's job.

use std::collections::VecDeque;

/// A number of bytes, granted in the order of the requests.
#[derive(Debug)]
pub struct ByteSemaphore {
    max: u64,
    held: u64,
    /// The waiters and how many bytes each wants.
    waiting: VecDeque<(u64, u64)>,
}

impl ByteSemaphore {
    /// Creates a semaphore over `max` bytes; a single holder may always have more.
    pub fn new(max: u64) -> Self {
        Self {
            max,
            held: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Requests `bytes` for `id`, or repeats a request that waits. Returns whether they
    /// are granted now.
    pub fn ask(&mut self, id: u64, bytes: u64) -> bool {
        let place = self.waiting.iter().position(|(other, _)| *other == id);
        match place {
            None if self.waiting.is_empty() && self.fits(bytes) => {}
            Some(0) if self.fits(bytes) => {
                self.waiting.pop_front();
            }
            Some(_) => return false,
            None => {
                self.waiting.push_back((id, bytes));
                return false;
            }
        }
        self.held += bytes;
        true
    }

    /// Returns how many bytes are granted and not released.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Releases bytes.
    pub fn give_back(&mut self, bytes: u64) {
        self.held = self.held.saturating_sub(bytes);
    }

    /// Removes `id` from the waiters.
    pub fn leave(&mut self, id: u64) {
        self.waiting.retain(|(other, _)| *other != id);
    }

    /// Returns the first waiter, if there is room for it now: it must request again.
    pub fn next(&self) -> Option<u64> {
        self.waiting
            .front()
            .filter(|(_, bytes)| self.fits(*bytes))
            .map(|(id, _)| *id)
    }

    /// Returns whether there are waiters.
    pub fn are_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn fits(&self, bytes: u64) -> bool {
        self.held == 0 || self.held.saturating_add(bytes) <= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_are_served_in_order_even_if_a_later_one_fits() {
        let mut semaphore = ByteSemaphore::new(10);
        assert!(semaphore.ask(1, 6) && semaphore.ask(2, 4));
        assert!(!semaphore.ask(3, 5) && !semaphore.ask(4, 1));
        semaphore.give_back(4);
        assert_eq!(semaphore.next(), None);
        assert!(
            !semaphore.ask(4, 1),
            "there is room for it, but it is not its turn"
        );
        assert!(!semaphore.ask(5, 1), "one that has just come waits as well");
        semaphore.leave(5);
        semaphore.give_back(6);
        assert_eq!(semaphore.next(), Some(3));
        assert!(semaphore.ask(3, 5));
        assert_eq!(semaphore.next(), Some(4));
        assert!(semaphore.ask(4, 1) && !semaphore.are_awaited());
    }

    #[test]
    fn a_cancelled_waiter_lets_the_next_proceed() {
        let mut semaphore = ByteSemaphore::new(10);
        assert!(semaphore.ask(1, 10));
        assert!(!semaphore.ask(2, 10) && !semaphore.ask(3, 1) && !semaphore.ask(2, 10));
        semaphore.leave(2);
        semaphore.give_back(10);
        assert!(semaphore.ask(3, 1) && !semaphore.are_awaited());
    }

    #[test]
    fn a_single_waiter_may_exceed_the_capacity() {
        let mut semaphore = ByteSemaphore::new(10);
        assert!(semaphore.ask(1, 50));
        assert!(!semaphore.ask(2, 1));
        semaphore.give_back(50);
        assert!(semaphore.ask(2, 1));
        assert!(!semaphore.ask(3, 50));
    }

    #[test]
    fn a_million_finished_waiters_leave_no_state() {
        let mut semaphore = ByteSemaphore::new(10);
        for id in 0..1_000_000 {
            if semaphore.ask(id, 4) {
                semaphore.give_back(4);
            }
            assert!(semaphore.ask(id, 10) && !semaphore.ask(id + 1, 10));
            semaphore.leave(id + 1);
            semaphore.give_back(10);
        }
        assert_eq!((semaphore.held, semaphore.waiting.len()), (0, 0));
    }
}
