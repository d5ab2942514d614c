use super::*;
use fastrand::Rng;
use std::collections::BTreeMap;

const MS: Duration = Duration::from_millis(1);

type Slots = CallSlots<u32, u32>;

fn wait(slots: &mut Slots, idx: u64, waiter: u32) -> Polled<u32> {
    slots.poll(idx, |stored| *stored = Some(waiter))
}

#[test]
fn a_reply_is_kept_until_it_is_taken() {
    let (mut slots, start) = (Slots::new(0), Instant::now());
    let first = slots.register(start);
    let second = slots.register(start);
    assert_eq!(slots.in_flight(), 2);
    assert_eq!(wait(&mut slots, first, 1), Polled::Waiting);
    assert_eq!(slots.arrived(Some(first), 10), Arrived::For(Some(1)));
    assert_eq!(slots.arrived(Some(second), 20), Arrived::For(None));
    assert_eq!(slots.in_flight(), 0);
    assert_eq!(wait(&mut slots, second, 2), Polled::Done(20));
    assert_eq!(wait(&mut slots, first, 1), Polled::Done(10));
    assert_eq!(wait(&mut slots, first, 1), Polled::Unknown);
    assert_eq!(slots.arrived(Some(first), 10), Arrived::Unsolicited);
    assert_eq!(slots.arrived(None, 10), Arrived::Unsolicited);
}

#[test]
fn the_reply_of_a_call_that_was_given_up_is_late_and_of_no_other_call() {
    let (mut slots, start) = (Slots::new(1), Instant::now());
    let given_up = slots.register(start);
    assert!(slots.discard(given_up) && !slots.discard(given_up));
    let other = slots.register(start);
    assert_eq!(slots.arrived(Some(given_up), 1), Arrived::Late);
    assert_eq!(
        slots.arrived(None, 1),
        Arrived::Late,
        "that of the greeting"
    );
    assert_eq!(slots.arrived(Some(given_up), 1), Arrived::Unsolicited);
    assert_eq!(wait(&mut slots, other, 1), Polled::Waiting);
    slots.unregister(other);
    assert_eq!(slots.arrived(Some(other), 1), Arrived::Unsolicited);
    assert_eq!(slots.in_flight(), 0);
}

#[test]
fn calls_expire_at_their_deadlines() {
    let (mut slots, start) = (Slots::new(0), Instant::now());
    assert_eq!(slots.next_expiry(), None);
    let late = slots.register(start + 20 * MS);
    let early = slots.register(start + 10 * MS);
    for (waiter, idx) in [(1, late), (2, early)] {
        assert_eq!(wait(&mut slots, idx, waiter), Polled::Waiting);
    }
    assert_eq!(slots.next_expiry(), Some(start + 10 * MS));
    assert!(slots.expire(start + 9 * MS, || 0).is_empty());
    assert_eq!(slots.expire(start + 10 * MS, || 0), [2]);
    assert_eq!(wait(&mut slots, early, 2), Polled::Done(0));
    assert_eq!(slots.arrived(Some(early), 5), Arrived::Late);
    assert_eq!(slots.next_expiry(), Some(start + 20 * MS));
    assert_eq!(slots.end(|| 9), [1]);
    assert_eq!(wait(&mut slots, late, 1), Polled::Done(9));
    assert_eq!(slots.next_expiry(), None);
}

#[test]
fn close_deadlines_of_many_calls_do_not_cost_a_search_each() {
    let (mut slots, start) = (Slots::new(0), Instant::now());
    for call in 0..100_000 {
        slots.register(start + call * Duration::from_micros(1));
    }
    let (mut searches, mut now) = (0, start);
    while let Some(next) = slots.next_expiry() {
        now = now.max(next);
        slots.expire(now, || 0);
        searches += 1;
    }
    assert!(searches <= 3, "{searches} searches");
    assert!(now <= start + 300 * MS);
}

/// The simplest possible implementation.
#[derive(Default)]
struct Model {
    calls: BTreeMap<u64, (Instant, Option<u32>, Option<u32>)>,
    late: u64,
}

impl Model {
    fn waiting(&self) -> usize {
        self.calls.values().filter(|call| call.2.is_none()).count()
    }

    fn arrived(&mut self, idx: u64, reply: u32) -> Arrived<Option<u32>> {
        match self.calls.get_mut(&idx) {
            Some((_, waiter, done @ None)) => {
                *done = Some(reply);
                Arrived::For(waiter.take())
            }
            _ if self.late > 0 => {
                self.late -= 1;
                Arrived::Late
            }
            _ => Arrived::Unsolicited,
        }
    }

    fn expire(&mut self, now: Instant) -> Vec<u32> {
        let mut waiters = Vec::new();
        for (deadline, waiter, done) in self.calls.values_mut() {
            if done.is_none() && *deadline <= now {
                waiters.extend(waiter.take());
                *done = Some(0);
                self.late += 1;
            }
        }
        waiters
    }
}

#[test]
fn slots_do_what_the_model_does_in_two_thousand_histories() {
    for seed in 0..2_000 {
        let mut rng = Rng::with_seed(seed);
        let (mut slots, mut model) = (Slots::new(0), Model::default());
        let (mut now, mut known) = (Instant::now(), vec![0]);
        for step in 0..rng.u32(..200) {
            let idx = known[rng.usize(..known.len())];
            match rng.u8(..12) {
                0..4 => {
                    let deadline = now + rng.u32(..50) * MS;
                    let idx = slots.register(deadline);
                    let before = model.calls.insert(idx, (deadline, None, None));
                    assert!(before.is_none(), "seed {seed}: an index is used twice");
                    known.push(idx);
                }
                4..6 => {
                    let polled = wait(&mut slots, idx, step);
                    let expected = match model.calls.get_mut(&idx) {
                        None => Polled::Unknown,
                        Some((_, waiter, None)) => {
                            *waiter = Some(step);
                            Polled::Waiting
                        }
                        Some((_, _, Some(reply))) => Polled::Done(*reply),
                    };
                    if expected != Polled::Waiting {
                        model.calls.remove(&idx);
                    }
                    assert_eq!(polled, expected, "seed {seed}");
                }
                6..9 => {
                    let arrived = slots.arrived(Some(idx), step);
                    assert_eq!(arrived, model.arrived(idx, step), "seed {seed}");
                }
                9 => {
                    let outstanding = model
                        .calls
                        .remove(&idx)
                        .is_some_and(|call| call.2.is_none());
                    model.late += u64::from(outstanding);
                    assert_eq!(slots.discard(idx), outstanding, "seed {seed}");
                }
                _ => {
                    now += rng.u32(1..20) * MS;
                    let mut expired = slots.expire(now, || 0);
                    let mut expected = model.expire(now);
                    expired.sort_unstable();
                    expected.sort_unstable();
                    assert_eq!(expired, expected, "seed {seed}");
                }
            }
            assert_eq!(slots.in_flight(), model.waiting(), "seed {seed}");
            assert_eq!(slots.late, model.late, "seed {seed}");
        }
    }
}

#[test]
fn a_million_calls_leave_no_state() {
    let (mut slots, start) = (Slots::new(0), Instant::now());
    for _ in 0..10 {
        let calls: Vec<_> = (0..100_000).map(|_| slots.register(start)).collect();
        for idx in calls {
            assert_eq!(slots.arrived(Some(idx), 1), Arrived::For(None));
            assert_eq!(wait(&mut slots, idx, 1), Polled::Done(1));
        }
        assert_eq!((slots.slots.capacity(), slots.free.capacity()), (0, 0));
    }
    assert_eq!((slots.in_flight(), slots.late), (0, 0));
}
