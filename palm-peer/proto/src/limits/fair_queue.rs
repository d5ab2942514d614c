//! A bounded queue that is fair between its sources: one client's flood does not starve
//! another's single call.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// Items of many sources, taken out round-robin: one of each source, then the next of each.
#[derive(Debug)]
pub struct FairQueue<K, T> {
    sources: HashMap<K, Source<T>>,
    /// The sources that have items, in the order of their turns.
    turns: VecDeque<K>,
    held: Amount,
    max: Amount,
}

/// An amount of queued items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// The number of items.
    pub items: usize,
    /// Their total size in bytes.
    pub bytes: usize,
}

#[derive(Debug)]
struct Source<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
}

impl<T> Source<T> {
    fn take(&mut self, item: Option<(T, usize)>) -> Option<(T, usize)> {
        self.bytes -= item.as_ref().map_or(0, |(_, bytes)| *bytes);
        item
    }
}

impl<K: Clone + Eq + Hash, T> FairQueue<K, T> {
    /// Creates an empty queue with this limit; a single item may be larger.
    #[must_use]
    pub fn new(max: Amount) -> Self {
        Self {
            sources: HashMap::new(),
            turns: VecDeque::new(),
            held: Amount::default(),
            max,
        }
    }

    /// Returns whether no item waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.items == 0
    }

    /// Returns how many items wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.items
    }

    /// Returns how much waits.
    #[must_use]
    pub fn held(&self) -> Amount {
        self.held
    }

    /// Adds an item. When the queue is full, returns the items that are evicted: this one, or,
    /// where another source has more waiting than this one would have, the newest of the
    /// source that has most.
    #[must_use]
    pub fn push(&mut self, source: K, item: T, bytes: usize) -> Vec<T> {
        let mut refused = Vec::new();
        loop {
            let too_many = self.held.items >= self.max.items;
            let too_heavy = self.held.items > 0 && self.held.bytes + bytes > self.max.bytes;
            if !too_many && !too_heavy {
                self.add(source, item, bytes);
                return refused;
            }
            // The exhausted limit, items or bytes, decides which source has most.
            let has = |source: &Source<T>| {
                if too_many {
                    source.items.len()
                } else {
                    source.bytes
                }
            };
            let own = self.sources.get(&source).map_or(0, has) + if too_many { 1 } else { bytes };
            let others = self.sources.iter().filter(|(other, _)| **other != source);
            let greatest = others
                .max_by_key(|(_, other)| has(other))
                .filter(|(_, other)| has(other) > own);
            let newest = greatest
                .map(|(other, _)| other.clone())
                .and_then(|other| self.remove_newest(&other));
            let Some(newest) = newest else {
                refused.push(item);
                return refused;
            };
            refused.push(newest);
        }
    }

    fn add(&mut self, source: K, item: T, bytes: usize) {
        let entry = self.sources.entry(source.clone());
        let waiting = entry.or_insert_with(|| Source {
            items: VecDeque::new(),
            bytes: 0,
        });
        if waiting.items.is_empty() {
            self.turns.push_back(source);
        }
        waiting.items.push_back((item, bytes));
        waiting.bytes += bytes;
        self.held.items += 1;
        self.held.bytes += bytes;
    }

    fn remove_newest(&mut self, source: &K) -> Option<T> {
        let waiting = self.sources.get_mut(source)?;
        let newest = waiting.items.pop_back();
        let (item, bytes) = waiting.take(newest)?;
        self.release(bytes);
        self.drop_empty();
        Some(item)
    }

    /// Removes and returns the oldest item of the source whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let source = self.turns.pop_front()?;
        let waiting = self.sources.get_mut(&source)?;
        let oldest = waiting.items.pop_front();
        let (item, bytes) = waiting.take(oldest)?;
        if waiting.items.is_empty() {
            self.sources.remove(&source);
        } else {
            self.turns.push_back(source);
        }
        self.release(bytes);
        Some(item)
    }

    /// Removes and returns all items for which `over` holds.
    pub fn take_if(&mut self, over: impl Fn(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        let mut freed = Vec::new();
        for source in self.sources.values_mut() {
            let (out, rest): (VecDeque<_>, _) = std::mem::take(&mut source.items)
                .into_iter()
                .partition(|(item, _)| over(item));
            source.items = rest;
            for (item, bytes) in out {
                source.bytes -= bytes;
                freed.push(bytes);
                taken.push(item);
            }
        }
        for bytes in freed {
            self.release(bytes);
        }
        self.drop_empty();
        taken
    }

    fn release(&mut self, bytes: usize) {
        self.held.items -= 1;
        self.held.bytes -= bytes;
    }

    fn drop_empty(&mut self) {
        self.sources.retain(|_, waiting| !waiting.items.is_empty());
        self.turns
            .retain(|source| self.sources.contains_key(source));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    const PLENTY: usize = 1000;

    fn drained(queue: &mut FairQueue<u8, u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    fn queue(items: usize, bytes: usize) -> FairQueue<u8, u32> {
        FairQueue::new(Amount { items, bytes })
    }

    #[test]
    fn sources_take_turns() {
        let mut queue = queue(10, PLENTY);
        for (source, item) in [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30), (3, 31)] {
            assert!(queue.push(source, item, 1).is_empty());
        }
        assert_eq!(drained(&mut queue), [10, 20, 30, 11, 31, 12]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn a_full_queue_evicts_from_the_source_with_most_entries() {
        let mut queue = queue(4, PLENTY);
        for item in 0..4 {
            assert!(queue.push(1, item, 1).is_empty());
        }
        assert_eq!(queue.push(1, 4, 1), [4], "its own flood is refused");
        assert_eq!(queue.push(2, 20, 1), [3]);
        assert_eq!(queue.push(2, 21, 1), [2]);
        assert_eq!(
            queue.push(2, 22, 1),
            [22],
            "one and three would be no fairer"
        );
        assert_eq!(drained(&mut queue), [0, 20, 1, 21]);
    }

    #[test]
    fn a_queue_short_of_bytes_evicts_from_the_largest_source() {
        let mut queue = queue(PLENTY, 100);
        assert!(queue.push(1, 10, 60).is_empty());
        assert!(queue.push(1, 11, 30).is_empty());
        assert!(queue.push(2, 20, 5).is_empty());
        assert_eq!(queue.push(1, 12, 20), [12], "its own flood is refused");
        assert_eq!(
            queue.push(2, 21, 20),
            [11],
            "many small ones do not make way for few large ones"
        );
        assert_eq!(queue.push(3, 30, 50), [10], "however few these are");
        assert_eq!(
            queue.push(4, 40, 200),
            [40],
            "who wants more than the others has most"
        );
        assert_eq!(drained(&mut queue), [20, 30, 21]);
        assert!(
            queue.push(1, 13, 200).is_empty(),
            "one may be as heavy as it likes"
        );
    }

    #[test]
    fn expired_entries_are_removed() {
        let mut queue = queue(PLENTY, PLENTY);
        for (source, item) in [(1, 10), (1, 11), (2, 20)] {
            assert!(queue.push(source, item, 7).is_empty());
        }
        let mut even = queue.take_if(|item| item % 2 == 0);
        even.sort_unstable();
        assert_eq!(
            (even, queue.held),
            (vec![10, 20], Amount { items: 1, bytes: 7 })
        );
        assert!(queue.push(2, 21, 7).is_empty());
        assert_eq!(drained(&mut queue), [11, 21]);
    }

    /// Invariants: the limits hold; nothing is lost or duplicated; in the end nothing is held.
    #[test]
    fn nothing_is_lost_in_two_thousand_histories() {
        for seed in 0..2_000 {
            let mut random = Rng::with_seed(seed);
            let max = Amount {
                items: random.usize(1..10),
                bytes: random.usize(10..100),
            };
            let mut queue = FairQueue::new(max);
            let (mut given, mut taken) = (0_u32, Vec::new());
            for _ in 0..random.usize(0..100) {
                match random.u8(0..10) {
                    0..6 => {
                        taken.extend(queue.push(random.u8(0..4), given, random.usize(0..20)));
                        given += 1;
                    }
                    6 => taken.extend(queue.take_if(|item| item % 5 == 0)),
                    _ => taken.extend(queue.pop()),
                }
                let held = queue.held;
                assert!(
                    held.items <= max.items && (held.bytes <= max.bytes || held.items == 1),
                    "seed {seed}"
                );
                assert_eq!(queue.turns.len(), queue.sources.len(), "seed {seed}");
            }
            taken.extend(drained(&mut queue));
            assert_eq!(queue.held, Amount::default(), "seed {seed}");
            taken.sort_unstable();
            assert!(taken.into_iter().eq(0..given), "seed {seed}");
        }
    }

    #[test]
    fn two_hundred_thousand_sources_leave_no_state() {
        let mut queue: FairQueue<u32, u32> = FairQueue::new(Amount {
            items: 100,
            bytes: PLENTY,
        });
        for source in 0..200_000 {
            let refused = queue.push(source, source, 1);
            assert_eq!(refused.is_empty(), queue.sources.contains_key(&source));
            assert!(queue.sources.len() <= 100 && queue.turns.len() == queue.sources.len());
            if source % 3 == 0 {
                queue.pop();
            } else if source % 1_000 == 1 {
                drop(queue.take_if(|item| item % 2 == 0));
            }
        }
        while queue.pop().is_some() {}
        assert_eq!(
            (queue.sources.len(), queue.turns.len(), queue.held),
            (0, 0, Amount::default())
        );
    }
}
