//! When to act on which message of a job.
//!
//! Nearly all messages are due after one of two constant times: the job's deadline after they were
//! pulled, or `attempt_timeout` after an attempt was sent. Two queues therefore hold them in order
//! without sorting; only retries need a heap. A message that ends or gets another time leaves its
//! entry behind; such entries are dropped when they come first, or when they are the majority.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Instant,
};

type Entry = (Instant, u64);

/// So many entries may be left behind without being dropped at once.
const SLACK: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Timers {
    deadlines: VecDeque<Entry>,
    attempts: VecDeque<Entry>,
    others: BinaryHeap<Reverse<Entry>>,
}

impl Timers {
    /// A new message is due at its deadline.
    pub(super) fn set_deadline(&mut self, idx: u64, at: Instant) {
        self.push(idx, at, |timers| &mut timers.deadlines);
    }

    /// A message is due when its attempt times out.
    pub(super) fn set_attempt(&mut self, idx: u64, at: Instant) {
        self.push(idx, at, |timers| &mut timers.attempts);
    }

    /// A message is due at any other time.
    pub(super) fn set(&mut self, idx: u64, at: Instant) {
        self.others.push(Reverse((at, idx)));
    }

    fn push(&mut self, idx: u64, at: Instant, queue: fn(&mut Self) -> &mut VecDeque<Entry>) {
        let queue = queue(self);
        if queue.back().is_none_or(|(last, _)| *last <= at) {
            queue.push_back((at, idx));
        } else {
            self.set(idx, at);
        }
    }

    /// Drops entries that no longer hold, so that the first one does. `live` is the number of
    /// messages, and `holds` tells whether a message is due at this time.
    pub(super) fn clean_up(&mut self, live: usize, holds: impl Fn(u64, Instant) -> bool) {
        let holds = |(at, idx): &Entry| holds(*idx, *at);
        if self.len() > SLACK + 3 * live {
            self.deadlines.retain(holds);
            self.attempts.retain(holds);
            self.others.retain(|Reverse(entry)| holds(entry));
        }
        for queue in [&mut self.deadlines, &mut self.attempts] {
            while queue.front().is_some_and(|entry| !holds(entry)) {
                queue.pop_front();
            }
        }
        while self
            .others
            .peek()
            .is_some_and(|Reverse(entry)| !holds(entry))
        {
            self.others.pop();
        }
    }

    /// Returns when the first message is due.
    pub(super) fn first(&self) -> Option<Instant> {
        let others = self.others.peek().map(|Reverse((at, _))| *at);
        let queues = [&self.deadlines, &self.attempts].map(|queue| queue.front());
        queues
            .into_iter()
            .flatten()
            .map(|(at, _)| *at)
            .chain(others)
            .min()
    }

    /// Takes out a message that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Entry> {
        let is_due = |(at, _): &Entry| *at <= now;
        for queue in [&mut self.deadlines, &mut self.attempts] {
            if queue.front().is_some_and(is_due) {
                return queue.pop_front();
            }
        }
        let Reverse(first) = self.others.peek()?;
        is_due(first)
            .then(|| self.others.pop())?
            .map(|Reverse(entry)| entry)
    }

    pub(super) fn len(&self) -> usize {
        self.deadlines.len() + self.attempts.len() + self.others.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, time::Duration};

    /// The messages, each with the time at which it is due.
    #[derive(Default)]
    struct Model(BTreeMap<u64, Instant>);

    impl Model {
        fn holds(&self, idx: u64, at: Instant) -> bool {
            self.0.get(&idx) == Some(&at)
        }
    }

    /// Invariants: the first time is that of the message that is due first, all that are due come,
    /// and only few entries are kept.
    #[test]
    fn timers_match_a_sorted_map_in_a_thousand_histories() {
        for seed in 0..1_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut timers, mut model) = (Timers::default(), Model::default());
            let mut now = Instant::now();
            for idx in 0..300 {
                now += Duration::from_millis(random.u64(0..20));
                let at = now + Duration::from_millis(500);
                timers.set_deadline(idx, at);
                model.0.insert(idx, at);
                let other = random.u64(0..=idx);
                let any = now + Duration::from_millis(random.u64(0..500));
                let timeout = now + Duration::from_millis(100);
                if let Some(due) = model.0.get_mut(&other) {
                    match random.u8(0..3) {
                        0 => {
                            *due = any;
                            timers.set(other, any);
                        }
                        1 if *due != timeout => {
                            *due = timeout;
                            timers.set_attempt(other, timeout);
                        }
                        _ => drop(model.0.remove(&other)),
                    }
                }
                timers.clean_up(model.0.len(), |idx, at| model.holds(idx, at));
                assert_eq!(
                    timers.first(),
                    model.0.values().min().copied(),
                    "seed {seed}"
                );
                assert!(timers.len() <= SLACK + 3 * model.0.len(), "seed {seed}");
                while let Some((at, idx)) = timers.pop_due(now) {
                    if model.holds(idx, at) {
                        model.0.remove(&idx);
                    }
                }
                assert!(model.0.values().all(|at| *at > now), "seed {seed}");
                timers.clean_up(model.0.len(), |idx, at| model.holds(idx, at));
            }
        }
    }
}
