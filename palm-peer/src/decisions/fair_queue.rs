//! A bounded queue that is fair between those who fill it: one client's flood does not starve another's single call.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// Items of many sources, taken out in turns: one of each source, then the next of each.
#[derive(Debug)]
pub struct FairQueue<K, T> {
    sources: HashMap<K, VecDeque<T>>,
    /// The sources that have something, in the order of their turns.
    turns: VecDeque<K>,
    length: usize,
    most: usize,
}

impl<K: Clone + Eq + Hash, T> FairQueue<K, T> {
    /// An empty queue for at most `most` items.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { sources: HashMap::new(), turns: VecDeque::new(), length: 0, most }
    }

    /// How many items wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Puts an item in. When the queue is full, gives back the item that has to go: this one, or, when another source has
    /// more waiting than this one, the newest of the source that has most.
    pub fn push(&mut self, source: K, item: T) -> Option<T> {
        if self.length < self.most {
            self.add(source, item);
            return None;
        }
        let own = self.sources.get(&source).map_or(0, VecDeque::len);
        let longest = self.sources.values_mut().max_by_key(|items| items.len()).filter(|items| items.len() > own + 1);
        let Some(newest) = longest.and_then(VecDeque::pop_back) else { return Some(item) };
        self.length -= 1;
        self.add(source, item);
        Some(newest)
    }

    fn add(&mut self, source: K, item: T) {
        let items = self.sources.entry(source.clone()).or_default();
        if items.is_empty() {
            self.turns.push_back(source);
        }
        items.push_back(item);
        self.length += 1;
    }

    /// Takes out the oldest item of the source whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let source = self.turns.pop_front()?;
        let items = self.sources.get_mut(&source)?;
        let item = items.pop_front();
        if items.is_empty() {
            self.sources.remove(&source);
        } else {
            self.turns.push_back(source);
        }
        self.length -= usize::from(item.is_some());
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    fn drained(queue: &mut FairQueue<u8, u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn sources_take_turns() {
        let mut queue = FairQueue::new(10);
        for (source, item) in [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30), (3, 31)] {
            assert_eq!(queue.push(source, item), None);
        }
        assert_eq!(drained(&mut queue), [10, 20, 30, 11, 31, 12]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn a_full_queue_makes_room_for_who_has_little_at_the_cost_of_who_has_most() {
        let mut queue = FairQueue::new(4);
        for item in 0..4 {
            queue.push(1, item);
        }
        assert_eq!(queue.push(1, 4), Some(4), "its own flood is refused");
        assert_eq!(queue.push(2, 20), Some(3));
        assert_eq!(queue.push(2, 21), Some(2));
        assert_eq!(queue.push(2, 22), Some(22), "one and three would be no fairer");
        assert_eq!(drained(&mut queue), [0, 20, 1, 21]);
    }

    /// Laws: never more than there is room for; nothing is lost or doubled; each source's items stay in order.
    #[test]
    fn nothing_is_lost_in_two_thousand_histories() {
        for seed in 0..2_000 {
            let mut random = Rng::with_seed(seed);
            let most = random.usize(1..10);
            let mut queue = FairQueue::new(most);
            let (mut given, mut taken, mut refused) = (0_u32, Vec::new(), Vec::new());
            for _ in 0..random.usize(0..100) {
                if random.u8(0..3) > 0 {
                    refused.extend(queue.push(random.u8(0..4), given));
                    given += 1;
                } else {
                    taken.extend(queue.pop());
                }
                assert!(queue.len() <= most, "seed {seed}");
            }
            taken.extend(drained(&mut queue));
            let mut all: Vec<_> = taken.iter().chain(&refused).copied().collect();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..given), "seed {seed}");
        }
    }
}
