//! A queue whose sources take turns: one item of each, then the next of each.

use foldhash::{HashMap, HashMapExt as _};
use std::{collections::VecDeque, hash::Hash};

/// Items of several sources. It is not bounded itself.
#[derive(Debug)]
pub struct TurnQueue<K, T> {
    items: HashMap<K, VecDeque<T>>,
    /// The sources that have items, in the order of their turns.
    turns: VecDeque<K>,
}

impl<K, T> Default for TurnQueue<K, T> {
    fn default() -> Self {
        Self {
            items: HashMap::new(),
            turns: VecDeque::new(),
        }
    }
}

impl<K: Clone + Eq + Hash, T> TurnQueue<K, T> {
    /// Adds an item of a source.
    pub fn push(&mut self, source: &K, item: T) {
        if let Some(items) = self.items.get_mut(source) {
            items.push_back(item);
            return;
        }
        self.items.insert(source.clone(), VecDeque::from([item]));
        self.turns.push_back(source.clone());
    }

    /// Takes the oldest item of the source whose turn it is.
    pub fn pop(&mut self) -> Option<(K, T)> {
        let source = self.turns.pop_front()?;
        let items = self.items.get_mut(&source)?;
        let item = items.pop_front()?;
        if items.is_empty() {
            self.items.remove(&source);
        } else {
            self.turns.push_back(source.clone());
        }
        Some((source, item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use std::collections::BTreeMap;

    #[test]
    fn a_source_with_many_items_does_not_delay_another() {
        let mut queue = TurnQueue::default();
        (0..3).for_each(|item| queue.push(&1, item));
        queue.push(&2, 10);
        let items: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(items, [(1, 0), (2, 10), (1, 1), (1, 2)]);
    }

    #[test]
    fn items_keep_their_order_and_no_source_waits_for_two_turns_of_another() {
        for seed in 0..1_000 {
            let mut rng = Rng::with_seed(seed);
            let mut queue = TurnQueue::default();
            let (mut pushed, mut popped) = (BTreeMap::<u8, u32>::new(), BTreeMap::<u8, u32>::new());
            // The sources that had their turn while this one had items and none.
            let mut before = BTreeMap::<u8, Vec<u8>>::new();
            for _ in 0..rng.usize(..300) {
                if rng.bool() {
                    let source = rng.u8(..5);
                    let count = pushed.entry(source).or_default();
                    queue.push(&source, *count);
                    *count += 1;
                    before.entry(source).or_default();
                } else if let Some((source, item)) = queue.pop() {
                    let next = popped.entry(source).or_default();
                    assert_eq!(item, *next, "seed {seed}");
                    *next += 1;
                    before.remove(&source);
                    for (other, before) in &mut before {
                        assert!(!before.contains(&source), "seed {seed}: {other} waits");
                        before.push(source);
                    }
                    if pushed[&source] > *next {
                        before.insert(source, Vec::new());
                    }
                }
            }
            while let Some((source, _)) = queue.pop() {
                *popped.entry(source).or_default() += 1;
            }
            assert_eq!(pushed, popped, "seed {seed}");
            assert!(queue.items.is_empty() && queue.turns.is_empty());
        }
    }
}
