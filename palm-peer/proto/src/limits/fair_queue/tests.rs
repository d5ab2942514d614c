use super::*;
use fastrand::Rng;

const PLENTY: usize = 1000;

fn drained(queue: &mut FairQueue<u8, u32>) -> Vec<u32> {
    std::iter::from_fn(|| queue.pop(|_| true)).collect()
}

fn queue(items: usize, bytes: usize) -> FairQueue<u8, u32> {
    FairQueue::new(Amount { items, bytes })
}

#[test]
fn sources_take_turns() {
    let mut queue = queue(10, PLENTY);
    for (source, item) in [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30), (3, 31)] {
        assert!(queue.push(source, 0, item, 1).is_empty());
    }
    assert_eq!(drained(&mut queue), [10, 20, 30, 11, 31, 12]);
    assert_eq!(queue.len(), 0);
}

#[test]
fn a_full_queue_evicts_from_the_source_with_most_entries() {
    let mut queue = queue(4, PLENTY);
    for item in 0..4 {
        assert!(queue.push(1, 0, item, 1).is_empty());
    }
    assert_eq!(queue.push(1, 0, 4, 1), [4], "its own flood is refused");
    assert_eq!(queue.push(2, 0, 20, 1), [3]);
    assert_eq!(queue.push(2, 0, 21, 1), [2]);
    assert_eq!(
        queue.push(2, 0, 22, 1),
        [22],
        "one and three would be no fairer"
    );
    assert_eq!(drained(&mut queue), [0, 20, 1, 21]);
}

#[test]
fn a_queue_short_of_bytes_evicts_from_the_largest_source() {
    let mut queue = queue(PLENTY, 100);
    assert!(queue.push(1, 0, 10, 60).is_empty());
    assert!(queue.push(1, 0, 11, 30).is_empty());
    assert!(queue.push(2, 0, 20, 5).is_empty());
    assert_eq!(queue.push(1, 0, 12, 20), [12], "its own flood is refused");
    assert_eq!(
        queue.push(2, 0, 21, 20),
        [11],
        "many small ones do not make way for few large ones"
    );
    assert_eq!(queue.push(3, 0, 30, 50), [10], "however few these are");
    assert_eq!(
        queue.push(4, 0, 40, 200),
        [40],
        "who wants more than the others has most"
    );
    assert_eq!(drained(&mut queue), [20, 30, 21]);
    assert!(
        queue.push(1, 0, 13, 200).is_empty(),
        "one may be as heavy as it likes"
    );
}

#[test]
fn expired_entries_are_removed() {
    let mut queue = queue(PLENTY, PLENTY);
    for (source, item) in [(1, 10), (1, 11), (2, 20)] {
        assert!(queue.push(source, 0, item, 7).is_empty());
    }
    let mut even = queue.take_if(|item| item % 2 == 0);
    even.sort_unstable();
    assert_eq!(
        (even, queue.held),
        (vec![10, 20], Amount { items: 1, bytes: 7 })
    );
    assert!(queue.push(2, 0, 21, 7).is_empty());
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
                    taken.extend(queue.push(
                        random.u8(0..4),
                        random.usize(0..3),
                        given,
                        random.usize(0..20),
                    ));
                    given += 1;
                }
                6 => taken.extend(queue.take_if(|item| item % 5 == 0)),
                _ => taken.extend(queue.pop(|_| true)),
            }
            let held = queue.held;
            assert!(
                held.items <= max.items && (held.bytes <= max.bytes || held.items == 1),
                "seed {seed}"
            );
            assert_consistent(&queue);
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
        let refused = queue.push(source, 0, source, 1);
        assert_eq!(refused.is_empty(), queue.sources.contains_key(&source));
        assert!(queue.sources.len() <= 100 && queue.lanes.len() <= 1);
        if source % 3 == 0 {
            queue.pop(|_| true);
        } else if source % 1_000 == 1 {
            drop(queue.take_if(|item| item % 2 == 0));
        }
    }
    while queue.pop(|_| true).is_some() {}
    assert_eq!(
        (queue.sources.len(), queue.lanes.len(), queue.held),
        (0, 0, Amount::default())
    );
}

fn assert_consistent(queue: &FairQueue<u8, u32>) {
    let mut places = 0;
    for (lane, turns) in &queue.lanes {
        assert!(!turns.is_empty());
        for (turn, source) in turns {
            let source = &queue.sources[source];
            assert_eq!(source.turn, *turn);
            assert!(!source.lanes[lane].items.is_empty());
            places += 1;
        }
    }
    let lanes = queue.sources.values().map(|source| source.lanes.len());
    assert_eq!(places, lanes.sum::<usize>());
    let items = queue
        .sources
        .values()
        .flat_map(|source| source.lanes.values());
    let items: usize = items.map(|waiting| waiting.items.len()).sum();
    assert_eq!(items, queue.held.items);
}

#[test]
fn a_closed_lane_holds_up_no_other() {
    let mut queue = queue(10, PLENTY);
    let items = [
        (1, 7, 10),
        (1, 7, 11),
        (1, 0, 12),
        (2, 7, 20),
        (2, 0, 21),
        (1, 0, 13),
    ];
    for (source, lane, item) in items {
        assert!(queue.push(source, lane, item, 1).is_empty());
    }
    let open: Vec<_> = std::iter::from_fn(|| queue.pop(|lane| lane != 7)).collect();
    assert_eq!(open, [12, 21, 13], "sources take turns in the open lane");
    assert_consistent(&queue);
    assert_eq!(
        drained(&mut queue),
        [20, 10, 11],
        "2 was served before 1 was again"
    );
}

#[test]
fn a_source_takes_turns_across_lanes() {
    let mut queue = queue(10, PLENTY);
    for (source, lane, item) in [(1, 1, 10), (1, 2, 11), (1, 3, 12), (2, 1, 20)] {
        assert!(queue.push(source, lane, item, 1).is_empty());
    }
    assert_eq!(
        drained(&mut queue),
        [10, 20, 11, 12],
        "one that calls many functions gets no more than others"
    );
}

#[test]
fn a_flood_in_one_lane_leaves_room_for_the_other_lanes_of_its_source() {
    let mut queue = queue(3, PLENTY);
    for item in 0..3 {
        assert!(queue.push(1, 0, item, 1).is_empty());
    }
    assert_eq!(queue.push(1, 5, 50, 1), [2]);
    assert_eq!(
        queue.push(1, 5, 51, 1),
        [51],
        "two and one would be no fairer"
    );
    assert_eq!(queue.push(1, 0, 3, 1), [3]);
    assert_consistent(&queue);
}
