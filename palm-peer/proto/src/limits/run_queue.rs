//! Which requests run now, and which wait: a limit of all that run, limits of single functions, and a
//! queue that is fair between clients.
//!
//! A request whose function is at its limit waits, and holds up no request for another function.

use super::fair_queue::{Amount, FairQueue};
use std::{hash::Hash, iter};

/// Which limit a function has: its own, or only that of all functions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lane(usize);

impl Lane {
    /// Returns the lane with the limit of this number, from 0.
    #[must_use]
    pub fn of_limit(number: usize) -> Self {
        Self(number.saturating_add(1))
    }

    /// Returns whether the function has a limit of its own.
    #[must_use]
    pub fn is_limited(self) -> bool {
        self.0 > 0
    }
}

/// The requests that wait, and the counts of those that run.
#[derive(Debug)]
pub struct RunQueue<K, T> {
    waiting: FairQueue<K, T>,
    running: Amount,
    max: Amount,
    /// Of each lane; the first has no limit of its own.
    lanes: Vec<Count>,
}

#[derive(Debug)]
struct Count {
    running: usize,
    max: usize,
}

impl Count {
    fn has_room(&self) -> bool {
        self.running < self.max
    }
}

impl<K: Clone + Eq + Hash, T> RunQueue<K, T> {
    /// Creates it with limits of what runs and of what waits, and the limits of single functions: how
    /// many calls of each run at once. The last one to start may exceed the bytes.
    #[must_use]
    pub fn new(running: Amount, waiting: Amount, limits: impl IntoIterator<Item = usize>) -> Self {
        let limits = iter::once(usize::MAX).chain(limits);
        Self {
            waiting: FairQueue::new(waiting),
            running: Amount::default(),
            max: running,
            lanes: limits.map(|max| Count { running: 0, max }).collect(),
        }
    }

    /// Returns how many run, and their size.
    #[must_use]
    pub fn running(&self) -> Amount {
        self.running
    }

    /// Returns how many wait, and their size.
    #[must_use]
    pub fn waiting(&self) -> Amount {
        self.waiting.held()
    }

    /// Returns whether one more may start in this lane now.
    #[must_use]
    pub fn has_room(&self, lane: Lane) -> bool {
        self.has_room_at_all() && self.lanes.get(lane.0).is_some_and(Count::has_room)
    }

    fn has_room_at_all(&self) -> bool {
        self.running.items == 0
            || (self.running.items < self.max.items && self.running.bytes < self.max.bytes)
    }

    /// Counts one that runs, of this size.
    pub fn started(&mut self, lane: Lane, bytes: usize) {
        self.running.items += 1;
        self.running.bytes += bytes;
        if let Some(count) = self.lanes.get_mut(lane.0) {
            count.running += 1;
        }
    }

    /// One of this size was answered. Its place in the lane stays taken until [`RunQueue::left`]: a
    /// function may run on after its caller has got an error.
    pub fn answered(&mut self, bytes: usize) {
        self.running.items = self.running.items.saturating_sub(1);
        self.running.bytes = self.running.bytes.saturating_sub(bytes);
    }

    /// One that was started no longer runs.
    pub fn left(&mut self, lane: Lane) {
        if let Some(count) = self.lanes.get_mut(lane.0) {
            count.running = count.running.saturating_sub(1);
        }
    }

    /// Adds one to the queue. Returns those for which there is no room, which may be others.
    #[must_use]
    pub fn wait(&mut self, source: K, lane: Lane, item: T, bytes: usize) -> Vec<T> {
        self.waiting.push(source, lane.0, item, bytes)
    }

    /// Removes and returns the next one that may start now. The caller starts it.
    pub fn pop(&mut self) -> Option<T> {
        if self.waiting.is_empty() || !self.has_room_at_all() {
            return None;
        }
        let lanes = &self.lanes;
        self.waiting
            .pop(|lane| lanes.get(lane).is_some_and(Count::has_room))
    }

    /// Removes and returns all waiting ones for which `over` holds.
    pub fn take_if(&mut self, over: impl Fn(&T) -> bool) -> Vec<T> {
        self.waiting.take_if(over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use std::collections::VecDeque;

    const PLENTY: Amount = Amount {
        items: 1000,
        bytes: 1_000_000,
    };

    fn at_once(items: usize, limits: &[usize]) -> RunQueue<u8, (Lane, u32)> {
        RunQueue::new(Amount { items, ..PLENTY }, PLENTY, limits.iter().copied())
    }

    fn wait(queue: &mut RunQueue<u8, (Lane, u32)>, source: u8, lane: Lane, item: u32) {
        assert!(queue.wait(source, lane, (lane, item), 1).is_empty());
    }

    /// Starts all that may.
    fn start(queue: &mut RunQueue<u8, (Lane, u32)>) -> Vec<u32> {
        let next = || {
            let (lane, item) = queue.pop()?;
            queue.started(lane, 1);
            Some(item)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_function_at_its_limit_holds_up_no_other() {
        let mut queue = at_once(4, &[1]);
        let (any, narrow) = (Lane::default(), Lane::of_limit(0));
        for item in 0..3 {
            wait(&mut queue, 1, narrow, item);
        }
        assert_eq!(start(&mut queue), [0]);
        assert!(!queue.has_room(narrow) && queue.has_room(any));
        for item in 10..14 {
            wait(&mut queue, 1, any, item);
        }
        assert_eq!(start(&mut queue), [10, 11, 12], "four run at once");
        queue.answered(1);
        queue.left(narrow);
        assert_eq!(start(&mut queue), [1], "its client waits longer for it");
        queue.answered(1);
        queue.left(any);
        assert_eq!((start(&mut queue), queue.waiting().items), (vec![13], 1));
    }

    #[test]
    fn a_function_that_runs_on_after_its_answer_keeps_its_place() {
        let mut queue = at_once(2, &[1]);
        let (any, narrow) = (Lane::default(), Lane::of_limit(0));
        wait(&mut queue, 1, narrow, 0);
        wait(&mut queue, 1, narrow, 1);
        assert_eq!(start(&mut queue), [0]);
        queue.answered(1);
        assert_eq!((queue.running().items, start(&mut queue)), (0, vec![]));
        assert!(queue.has_room(any), "others do not wait for it");
        queue.left(narrow);
        assert_eq!(start(&mut queue), [1]);
    }

    #[test]
    fn clients_take_turns_at_a_limited_function() {
        let mut queue = at_once(10, &[1]);
        let narrow = Lane::of_limit(0);
        for item in 0..3 {
            wait(&mut queue, 1, narrow, item);
        }
        wait(&mut queue, 2, narrow, 20);
        let mut order = start(&mut queue);
        while queue.waiting().items > 0 {
            queue.answered(1);
            queue.left(narrow);
            order.extend(start(&mut queue));
        }
        assert_eq!(order, [0, 20, 1, 2]);
    }

    /// Invariants: no limit is exceeded; nothing that may start waits; everything starts in the end.
    #[test]
    fn limits_hold_in_two_thousand_histories() {
        for seed in 0..2_000 {
            let mut random = Rng::with_seed(seed);
            let max = random.usize(1..6);
            let limits = [usize::MAX, random.usize(1..4), random.usize(1..4)];
            let mut queue = at_once(max, &limits[1..]);
            let lanes = [Lane::default(), Lane::of_limit(0), Lane::of_limit(1)];
            let (mut given, mut begun) = (0, 0);
            let mut running = VecDeque::new();
            // Answered, but they still run.
            let mut late = VecDeque::new();
            for step in 0..200 {
                let is_late = |lane: &Lane, late: &VecDeque<Lane>| {
                    late.iter().filter(|other| *other == lane).count()
                };
                match random.u8(0..6) {
                    0..3 if step < 100 => {
                        let lane = lanes[random.usize(0..3)];
                        wait(&mut queue, random.u8(0..4), lane, given);
                        given += 1;
                    }
                    3 => {
                        if let Some(lane) = running.pop_front() {
                            queue.answered(1);
                            late.push_back(lane);
                        }
                    }
                    _ => {
                        if let Some(lane) = late.pop_front() {
                            queue.left(lane);
                        }
                    }
                }
                while let Some((lane, _)) = queue.pop() {
                    queue.started(lane, 1);
                    running.push_back(lane);
                    begun += 1;
                }
                assert!(running.len() <= max, "seed {seed}");
                for (lane, limit) in lanes.iter().zip(limits) {
                    let runs = running.iter().filter(|other| *other == lane).count();
                    assert!(runs + is_late(lane, &late) <= limit, "seed {seed}");
                }
                assert_eq!(queue.running().items, running.len(), "seed {seed}");
            }
            for _ in 0..=given {
                for lane in running.drain(..).chain(late.drain(..)) {
                    queue.left(lane);
                }
                queue.running = Amount::default();
                while let Some((lane, _)) = queue.pop() {
                    queue.started(lane, 1);
                    running.push_back(lane);
                    begun += 1;
                }
            }
            assert_eq!((begun, queue.waiting().items), (given, 0), "seed {seed}");
        }
    }
}
