//! A bounded queue that is fair between its sources: one client's flood does not starve
//! another's single call. Its items are in lanes, such as those of one function, and what waits in a
//! lane that is closed holds up no other.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
};

/// Items of many sources, taken out round-robin: one of each source, then the next of each.
#[derive(Debug)]
pub struct FairQueue<K, T> {
    sources: HashMap<K, Source<T>>,
    /// The sources that have items in a lane, by the numbers of their turns.
    lanes: BTreeMap<usize, BTreeMap<u64, K>>,
    next_turn: u64,
    /// How many items there were.
    items: u64,
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

impl Amount {
    fn add(&mut self, bytes: usize) {
        self.items += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.items -= 1;
        self.bytes -= bytes;
    }
}

#[derive(Debug)]
struct Source<T> {
    turn: u64,
    lanes: BTreeMap<usize, Waiting<T>>,
    held: Amount,
}

/// The items of one source in one lane.
#[derive(Debug)]
struct Waiting<T> {
    items: VecDeque<Item<T>>,
    held: Amount,
}

#[derive(Debug)]
struct Item<T> {
    value: T,
    bytes: usize,
    /// In the order of arrival.
    number: u64,
}

impl<T> Source<T> {
    /// Returns the lane with most, by this measure.
    fn greatest_lane(&self, measure: impl Fn(Amount) -> usize) -> Option<usize> {
        let greatest = self
            .lanes
            .iter()
            .max_by_key(|(_, waiting)| measure(waiting.held));
        greatest.map(|(lane, _)| *lane)
    }
}

impl<K: Clone + Eq + Hash, T> FairQueue<K, T> {
    /// Creates an empty queue with this limit; a single item may be larger.
    #[must_use]
    pub fn new(max: Amount) -> Self {
        Self {
            sources: HashMap::new(),
            lanes: BTreeMap::new(),
            next_turn: 0,
            items: 0,
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

    /// Adds an item to a lane. When the queue is full, returns the items that are evicted: this one,
    /// or, where another source has more waiting than this one would have, the newest of the
    /// source that has most. Of a source, the lane that has most loses its newest, so a flood in one
    /// lane leaves room for the others.
    #[must_use]
    pub fn push(&mut self, source: K, lane: usize, item: T, bytes: usize) -> Vec<T> {
        let mut refused = Vec::new();
        loop {
            let too_many = self.held.items >= self.max.items;
            let too_heavy = self.held.items > 0 && self.held.bytes + bytes > self.max.bytes;
            if !too_many && !too_heavy {
                self.add(source, lane, item, bytes);
                return refused;
            }
            // The exhausted limit, items or bytes, decides which source has most.
            let victim = if too_many {
                self.victim(&source, lane, 1, |held| held.items)
            } else {
                self.victim(&source, lane, bytes, |held| held.bytes)
            };
            let newest =
                victim.and_then(|(other, lane)| self.take(&other, lane, VecDeque::pop_back));
            let Some(newest) = newest else {
                refused.push(item);
                return refused;
            };
            refused.push(newest);
        }
    }

    /// Returns the source and the lane that make room for one of this size; `None` if neither has
    /// more than this source and this lane would have.
    fn victim(
        &self,
        source: &K,
        lane: usize,
        size: usize,
        measure: impl Fn(Amount) -> usize + Copy,
    ) -> Option<(K, usize)> {
        let own = self.sources.get(source);
        let own_size = own.map_or(0, |own| measure(own.held)) + size;
        let others = self.sources.iter().filter(|(other, _)| *other != source);
        let greatest = others
            .max_by_key(|(_, other)| measure(other.held))
            .filter(|(_, other)| measure(other.held) > own_size);
        if let Some((other, waiting)) = greatest {
            return Some((other.clone(), waiting.greatest_lane(measure)?));
        }
        let own = own?;
        let in_lane = |lane| {
            own.lanes
                .get(&lane)
                .map_or(0, |waiting| measure(waiting.held))
        };
        let greatest = own.greatest_lane(measure)?;
        (in_lane(greatest) > in_lane(lane) + size).then(|| (source.clone(), greatest))
    }

    fn add(&mut self, source: K, lane: usize, item: T, bytes: usize) {
        let next_turn = &mut self.next_turn;
        let entry = self
            .sources
            .entry(source.clone())
            .or_insert_with(|| Source {
                turn: new_turn(next_turn),
                lanes: BTreeMap::new(),
                held: Amount::default(),
            });
        let turn = entry.turn;
        let waiting = entry.lanes.entry(lane).or_insert_with(|| Waiting {
            items: VecDeque::new(),
            held: Amount::default(),
        });
        if waiting.items.is_empty() {
            self.lanes.entry(lane).or_default().insert(turn, source);
        }
        self.items += 1;
        waiting.items.push_back(Item {
            value: item,
            bytes,
            number: self.items,
        });
        for held in [&mut waiting.held, &mut entry.held, &mut self.held] {
            held.add(bytes);
        }
    }

    /// Removes and returns an item of a source.
    fn take(
        &mut self,
        source: &K,
        lane: usize,
        take: impl FnOnce(&mut VecDeque<Item<T>>) -> Option<Item<T>>,
    ) -> Option<T> {
        let entry = self.sources.get_mut(source)?;
        let waiting = entry.lanes.get_mut(&lane)?;
        let Item { value, bytes, .. } = take(&mut waiting.items)?;
        for held in [&mut waiting.held, &mut entry.held, &mut self.held] {
            held.remove(bytes);
        }
        let (turn, is_empty) = (entry.turn, entry.held.items == 0);
        if waiting.items.is_empty() {
            entry.lanes.remove(&lane);
            self.leave_lane(lane, turn);
        }
        if is_empty {
            self.sources.remove(source);
        }
        Some(value)
    }

    fn leave_lane(&mut self, lane: usize, turn: u64) {
        let Some(turns) = self.lanes.get_mut(&lane) else {
            return;
        };
        turns.remove(&turn);
        if turns.is_empty() {
            self.lanes.remove(&lane);
        }
    }

    /// Removes and returns the oldest item in any open lane of the source whose turn it is, of those
    /// that have one.
    pub fn pop(&mut self, is_open: impl Fn(usize) -> bool) -> Option<T> {
        let open = self.lanes.iter().filter(|(lane, _)| is_open(**lane));
        let firsts = open.filter_map(|(_, turns)| turns.first_key_value());
        let (_, source) = firsts.min_by_key(|(turn, _)| **turn)?;
        let source = source.clone();
        let open = self.sources.get(&source)?.lanes.iter();
        let open = open.filter(|(lane, _)| is_open(**lane));
        let oldest = open.min_by_key(|(_, waiting)| waiting.items.front().map(|item| item.number));
        let lane = *oldest?.0;
        let item = self.take(&source, lane, VecDeque::pop_front)?;
        self.end_turn(&source);
        Some(item)
    }

    /// Puts a source behind all others.
    fn end_turn(&mut self, source: &K) {
        let Some(entry) = self.sources.get_mut(source) else {
            return;
        };
        let before = std::mem::replace(&mut entry.turn, new_turn(&mut self.next_turn));
        for lane in entry.lanes.keys() {
            let turns = self.lanes.entry(*lane).or_default();
            turns.remove(&before);
            turns.insert(entry.turn, source.clone());
        }
    }

    /// Removes and returns all items for which `over` holds.
    pub fn take_if(&mut self, over: impl Fn(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for source in self.sources.values_mut() {
            for waiting in source.lanes.values_mut() {
                let (out, rest): (VecDeque<_>, _) = std::mem::take(&mut waiting.items)
                    .into_iter()
                    .partition(|item| over(&item.value));
                waiting.items = rest;
                for Item { value, bytes, .. } in out {
                    for held in [&mut waiting.held, &mut source.held, &mut self.held] {
                        held.remove(bytes);
                    }
                    taken.push(value);
                }
            }
            source.lanes.retain(|_, waiting| !waiting.items.is_empty());
        }
        let sources = &self.sources;
        self.lanes.retain(|lane, turns| {
            let waits = |source: &K| {
                let source = sources.get(source);
                source.is_some_and(|source| source.lanes.contains_key(lane))
            };
            turns.retain(|_, source| waits(source));
            !turns.is_empty()
        });
        self.sources.retain(|_, source| source.held.items > 0);
        taken
    }
}

/// Returns the number of a turn after all others.
fn new_turn(next: &mut u64) -> u64 {
    *next += 1;
    *next
}

#[cfg(test)]
mod tests;
