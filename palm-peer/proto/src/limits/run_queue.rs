//! Which requests run now, and which wait: a limit of all that run, limits of single functions, and a
//! queue that is fair between clients.
//!
//! A request whose function is at its limit waits, and holds up no request for another function.

use super::fair_queue::{Amount, FairQueue};
use std::hash::Hash;

/// Which limit a function has: its own, or only that of all functions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lane(usize);

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
    /// Creates it with limits of what runs and of what waits. The last one to start may exceed the
    /// bytes.
    #[must_use]
    pub fn new(running: Amount, waiting: Amount) -> Self {
        let unlimited = Count {
            running: 0,
            max: usize::MAX,
        };
        Self {
            waiting: FairQueue::new(waiting),
            running: Amount::default(),
            max: running,
            lanes: vec![unlimited],
        }
    }

    /// Adds the limit of one function: how many calls of it run at once.
    pub fn add_lane(&mut self, max: usize) -> Lane {
        self.lanes.push(Count { running: 0, max });
        Lane(self.lanes.len() - 1)
    }

    /// Returns how many run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.items
    }

    /// Returns how many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
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
    pub fn next(&mut self) -> Option<T> {
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

    fn at_once(items: usize) -> RunQueue<u8, (Lane, u32)> {
        RunQueue::new(Amount { items, ..PLENTY }, PLENTY)
    }

    fn wait(queue: &mut RunQueue<u8, (Lane, u32)>, source: u8, lane: Lane, item: u32) {
        assert!(queue.wait(source, lane, (lane, item), 1).is_empty());
    }

    /// Starts all that may.
    fn start(queue: &mut RunQueue<u8, (Lane, u32)>) -> Vec<u32> {
        let next = || {
            let (lane, item) = queue.next()?;
            queue.started(lane, 1);
            Some(item)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_function_at_its_limit_holds_up_no_other() {
        let mut queue = at_once(4);
        let (any, narrow) = (Lane::default(), queue.add_lane(1));
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
        assert_eq!((start(&mut queue), queue.waiting()), (vec![13], 1));
    }

    #[test]
    fn a_function_that_runs_on_after_its_answer_keeps_its_place() {
        let mut queue = at_once(2);
        let (any, narrow) = (Lane::default(), queue.add_lane(1));
        wait(&mut queue, 1, narrow, 0);
        wait(&mut queue, 1, narrow, 1);
        assert_eq!(start(&mut queue), [0]);
        queue.answered(1);
        assert_eq!((queue.running(), start(&mut queue)), (0, vec![]));
        assert!(queue.has_room(any), "others do not wait for it");
        queue.left(narrow);
        assert_eq!(start(&mut queue), [1]);
    }

    #[test]
    fn clients_take_turns_at_a_limited_function() {
        let mut queue = at_once(10);
        let narrow = queue.add_lane(1);
        for item in 0..3 {
            wait(&mut queue, 1, narrow, item);
        }
        wait(&mut queue, 2, narrow, 20);
        let mut order = start(&mut queue);
        while queue.waiting() > 0 {
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
            let mut queue = at_once(max);
            let limits = [usize::MAX, random.usize(1..4), random.usize(1..4)];
            let lanes = [
                Lane::default(),
                queue.add_lane(limits[1]),
                queue.add_lane(limits[2]),
            ];
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
                while let Some((lane, _)) = queue.next() {
                    queue.started(lane, 1);
                    running.push_back(lane);
                    begun += 1;
                }
                assert!(running.len() <= max, "seed {seed}");
                for (lane, limit) in lanes.iter().zip(limits) {
                    let runs = running.iter().filter(|other| *other == lane).count();
                    assert!(runs + is_late(lane, &late) <= limit, "seed {seed}");
                }
                assert_eq!(queue.running(), running.len(), "seed {seed}");
            }
            for _ in 0..=given {
                for lane in running.drain(..).chain(late.drain(..)) {
                    queue.left(lane);
                }
                queue.running = Amount::default();
                while let Some((lane, _)) = queue.next() {
                    queue.started(lane, 1);
                    running.push_back(lane);
                    begun += 1;
                }
            }
            assert_eq!((begun, queue.waiting()), (given, 0), "seed {seed}");
        }
    }
}
