//! The mirror against histories, some written by hand and many made up from a seed.

use super::*;

fn item(key: &str, value: &str, created: i64, modified: i64) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: value.into(),
        lease: None,
        created: Revision(created),
        modified: Revision(modified),
    }
}

fn listing(revision: i64, items: &[KeyValue]) -> Listing {
    Listing {
        revision: Revision(revision),
        items: items.to_vec(),
    }
}

fn deleted(key: &str, revision: i64) -> Event {
    Event::Deleted {
        key: key.into(),
        revision: Revision(revision),
    }
}

fn all(mirror: &mut Reflector) -> Vec<Change> {
    std::iter::from_fn(|| mirror.next_change()).collect()
}

#[test]
fn an_empty_listing_is_reported_as_listed() {
    let mut mirror = Reflector::default();
    mirror.list(listing(7, &[]));
    assert_eq!(
        all(&mut mirror),
        [Change::Listed {
            revision: Revision(7)
        }]
    );
}

#[test]
fn a_listing_yields_deletions_then_puts_by_revision() {
    let (a, b, c) = (
        item("a", "1", 2, 2),
        item("b", "1", 3, 3),
        item("c", "1", 1, 1),
    );
    let mut mirror = Reflector::default();
    mirror.list(listing(3, &[a.clone(), b.clone(), c]));
    let told = all(&mut mirror);
    let keys: Vec<_> = told
        .iter()
        .filter_map(|change| match change {
            Change::Put {
                current,
                previous: None,
            } => Some(current.key.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(keys, ["c", "a", "b"]);
    let newer = item("b", "2", 3, 9);
    mirror.interrupt("cut".into());
    mirror.list(listing(9, &[a.clone(), newer.clone()]));
    assert_eq!(
        all(&mut mirror),
        [
            Change::Stale {
                reason: "cut".into()
            },
            Change::Deleted {
                previous: item("c", "1", 1, 1),
                revision: Revision(9),
                observed: false
            },
            Change::Put {
                current: newer,
                previous: Some(b)
            },
            Change::Listed {
                revision: Revision(9)
            },
        ]
    );
}

#[test]
fn events_already_in_the_listing_are_ignored() {
    let mut mirror = Reflector::default();
    mirror.list(listing(5, &[item("a", "new", 2, 5)]));
    mirror.events([
        Event::Put(item("a", "old", 2, 2)),
        deleted("a", 4),
        deleted("b", 5),
    ]);
    assert_eq!(all(&mut mirror).len(), 2);
    assert_eq!(mirror.items()["a"].value, b"new");
}

#[test]
fn one_revision_may_come_in_fragments() {
    let mut mirror = Reflector::default();
    mirror.list(listing(5, &[]));
    mirror.events([Event::Put(item("a", "1", 6, 6))]);
    mirror.events([Event::Put(item("b", "1", 6, 6))]);
    all(&mut mirror);
    assert_eq!(mirror.items().len(), 2);
}

#[test]
fn a_repeated_event_counts_once() {
    let mut mirror = Reflector::default();
    mirror.list(listing(5, &[]));
    let put = Event::Put(item("a", "1", 6, 6));
    mirror.events([
        put.clone(),
        put.clone(),
        deleted("a", 7),
        deleted("a", 7),
        put,
    ]);
    assert_eq!(all(&mut mirror).len(), 3);
    assert!(mirror.items().is_empty());
}

#[test]
fn the_copy_reflects_delivered_changes_only() {
    let mut mirror = Reflector::default();
    mirror.list(listing(5, &[item("a", "1", 1, 1), item("b", "1", 2, 2)]));
    mirror.events([deleted("a", 6)]);
    mirror.next_change();
    assert_eq!(mirror.items().keys().collect::<Vec<_>>(), ["a"]);
    mirror.next_change();
    assert_eq!(mirror.items().len(), 2);
}

#[test]
fn a_restored_store_replaces_the_copy() {
    let mut mirror = Reflector::default();
    mirror.list(listing(50, &[item("a", "late", 40, 45)]));
    mirror.list(listing(10, &[item("a", "early", 3, 4)]));
    mirror.events([Event::Put(item("a", "next", 3, 11))]);
    let told = all(&mut mirror);
    assert_eq!(told.len(), 6, "{told:?}");
    assert_eq!(told[2], Change::NewHistory);
    assert_eq!(mirror.items()["a"].value, b"next");
}

#[test]
fn an_older_key_version_proves_a_new_history() {
    let mut mirror = Reflector::default();
    mirror.list(listing(50, &[item("a", "late", 40, 45)]));
    mirror.list(listing(60, &[item("a", "early", 40, 41)]));
    assert_eq!(all(&mut mirror)[2], Change::NewHistory);
    // Reported once, by whichever finds it first.
    mirror.new_history();
    mirror.list(listing(10, &[]));
    let told = all(&mut mirror);
    let gone = Change::Deleted {
        previous: item("a", "early", 40, 41),
        revision: Revision(10),
        observed: false,
    };
    assert_eq!(
        told,
        [
            Change::NewHistory,
            gone,
            Change::Listed {
                revision: Revision(10)
            }
        ]
    );
    mirror.events([Event::Put(item("a", "new", 11, 11)), deleted("a", 12)]);
    assert!(matches!(
        all(&mut mirror)[1],
        Change::Deleted { observed: true, .. }
    ));
}

/// A store as etcd keeps it: all versions, for listings and watches from any revision.
struct Store {
    random: fastrand::Rng,
    revision: i64,
    items: BTreeMap<String, KeyValue>,
    history: Vec<Event>,
}

impl Store {
    fn write(&mut self) {
        self.revision += 1;
        // A transaction may touch several keys at one revision, each once.
        let mut keys: Vec<u8> = (b'a'..=b'f').collect();
        self.random.shuffle(&mut keys);
        for key in &keys[..self.random.usize(1..=3)] {
            let key = char::from(*key).to_string();
            let old = self.items.get(&key);
            if let (Some(_), true) = (old, self.random.bool()) {
                self.history.push(deleted(&key, self.revision));
                self.items.remove(&key);
            } else {
                let created = old.map_or(self.revision, |item| item.created.0);
                let new = item(
                    &key,
                    &self.random.u8(..).to_string(),
                    created,
                    self.revision,
                );
                self.history.push(Event::Put(new.clone()));
                self.items.insert(key, new);
            }
        }
    }

    fn listing(&self) -> Listing {
        listing(
            self.revision,
            &self.items.values().cloned().collect::<Vec<_>>(),
        )
    }

    fn since(&self, revision: Revision) -> Vec<Event> {
        self.history
            .iter()
            .filter(|event| event.revision() >= revision)
            .cloned()
            .collect()
    }
}

/// One made-up history: a watch that is fed in fragments, overlaps, and is cut off without notice.
fn history(seed: u64) {
    let random = fastrand::Rng::with_seed(seed);
    let mut store = Store {
        random,
        revision: 1,
        items: BTreeMap::new(),
        history: Vec::new(),
    };
    let mut mirror = Reflector::default();
    let mut told: BTreeMap<String, KeyValue> = BTreeMap::new();
    for _ in 0..6 {
        for _ in 0..store.random.usize(..8) {
            store.write();
        }
        mirror.interrupt("cut".into());
        let list = store.listing();
        // A watch may begin too early: it repeats what the listing held.
        let from = Revision((list.revision.0 + 1 - store.random.i64(..3)).max(1));
        mirror.list(list);
        for _ in 0..store.random.usize(..8) {
            store.write();
        }
        let mut events = store.since(from);
        if store.random.bool() {
            let kept = store.random.usize(..=events.len());
            events.truncate(kept);
        }
        while !events.is_empty() {
            let rest = events.split_off(store.random.usize(1..=events.len()));
            mirror.events(std::mem::replace(&mut events, rest));
            if store.random.bool() {
                replay(&mut mirror, &mut told, seed);
            }
        }
    }
    mirror.list(store.listing());
    replay(&mut mirror, &mut told, seed);
    assert_eq!(mirror.items(), &store.items, "seed {seed}");
}

/// Carries the changes out on a map of the test's own, and checks that each fits
/// onto the one before.
fn replay(mirror: &mut Reflector, told: &mut BTreeMap<String, KeyValue>, seed: u64) {
    while let Some(change) = mirror.next_change() {
        match change {
            Change::Put { current, previous } => {
                assert_ne!(Some(&current), previous.as_ref(), "seed {seed}");
                assert_eq!(
                    told.insert(current.key.clone(), current),
                    previous,
                    "seed {seed}"
                );
            }
            Change::Deleted { previous, .. } => {
                assert_eq!(told.remove(&previous.key), Some(previous), "seed {seed}");
            }
            Change::Listed { .. } | Change::Stale { .. } => {}
            Change::NewHistory => panic!("seed {seed}: this store never went back"),
        }
        assert_eq!(mirror.items(), told, "seed {seed}");
    }
}

#[test]
fn random_histories_converge_to_the_store() {
    for seed in 0..2000 {
        history(seed);
    }
}

#[test]
fn two_hundred_thousand_keys_leave_no_state() {
    let mut mirror = Reflector::default();
    for id in 0..200_000 {
        let (key, revision) = (format!("/servers/{id}"), 10 * id + 1);
        mirror.events([Event::Put(item(&key, "1", revision, revision))]);
        assert!(mirror.next_change().is_some());
        // Every other one is deleted while there is no watch.
        if id % 2 == 0 {
            mirror.events([deleted(&key, revision + 1)]);
        } else {
            mirror.interrupt("a test".into());
            mirror.list(listing(revision + 2, &[]));
        }
        assert!(!all(&mut mirror).is_empty());
        assert_eq!(
            (
                mirror.items.len(),
                mirror.updates.len(),
                mirror.differences.len()
            ),
            (0, 0, 0)
        );
    }
}
