use super::*;
use fastrand::Rng;
use std::collections::BTreeMap;

fn candidate(lease: i64, created: i64) -> Candidate {
    let lease = LeaseId::new(lease).expect("not zero");
    Candidate {
        key: format!("/election/{lease}"),
        lease,
        uuid: None,
        created: Revision(created),
    }
}

fn lease(id: i64) -> LeaseId {
    LeaseId::new(id).expect("not zero")
}

#[test]
fn the_oldest_key_leads_and_others_follow_the_next_older() {
    let mut election = Election::default();
    assert_eq!(
        election.handle(Event::LeaseHeld(lease(3))),
        [Action::Campaign(lease(3))]
    );
    let list = vec![candidate(1, 20), candidate(3, 30), candidate(2, 10)];
    let leader = Some(candidate(2, 10));
    let follow = |predecessor, ahead| {
        vec![Action::Follow(Follow {
            predecessor,
            ahead,
            leader: leader.clone(),
            own: Revision(30),
        })]
    };
    assert_eq!(
        election.handle(Event::Listed(list)),
        follow(candidate(1, 20), vec![candidate(2, 10)])
    );
    assert_eq!(
        election.handle(Event::KeyGone),
        [Action::Campaign(lease(3))]
    );
    let list = vec![candidate(3, 30), candidate(2, 10)];
    assert_eq!(
        election.handle(Event::Listed(list)),
        follow(candidate(2, 10), vec![])
    );
    assert_eq!(
        election.handle(Event::KeyGone),
        [Action::Campaign(lease(3))]
    );
    assert_eq!(
        election.handle(Event::Listed(vec![candidate(3, 30)])),
        [Action::Lead(Revision(30))]
    );
    assert_eq!(election.term(), Some(Revision(30)));
}

#[test]
fn the_third_candidate_also_watches_the_leader() {
    let mut election = Election::default();
    election.handle(Event::LeaseHeld(lease(4)));
    let list = vec![
        candidate(1, 10),
        candidate(2, 20),
        candidate(3, 30),
        candidate(4, 40),
        candidate(5, 50),
    ];
    let follow = |predecessor, ahead, leader| {
        vec![Action::Follow(Follow {
            predecessor,
            ahead,
            leader,
            own: Revision(40),
        })]
    };
    assert_eq!(
        election.handle(Event::Listed(list)),
        follow(
            candidate(3, 30),
            vec![candidate(1, 10), candidate(2, 20)],
            None
        )
    );
    election.handle(Event::KeyGone);
    let list = vec![candidate(1, 10), candidate(3, 30), candidate(4, 40)];
    let leader = Some(candidate(1, 10));
    assert_eq!(
        election.handle(Event::Listed(list)),
        follow(candidate(3, 30), vec![candidate(1, 10)], leader)
    );
    election.handle(Event::KeyGone);
    assert_eq!(
        election.handle(Event::Listed(vec![candidate(3, 30), candidate(4, 40)])),
        follow(candidate(3, 30), vec![], Some(candidate(3, 30)))
    );
}

/// A model of many candidates, of which any may end, also several at once: those in the first two
/// places after the leader know it and watch over it.
#[test]
fn the_next_two_candidates_always_know_the_leader() {
    for seed in 0..500 {
        let mut random = Rng::with_seed(seed);
        let mut model = Model::default();
        let mut peers: BTreeMap<i64, (Election, Vec<Action>)> = BTreeMap::new();
        for id in 1..=12 {
            let mut election = Election::default();
            election.handle(Event::LeaseHeld(lease(id)));
            model.stand(id);
            let actions = election.handle(Event::Listed(model.list(id)));
            peers.insert(id, (election, actions));
        }
        while peers.len() > 1 {
            let in_line: Vec<i64> = peers.keys().copied().collect();
            for (place, id) in in_line.iter().enumerate().skip(1) {
                let [Action::Follow(Follow { leader, .. })] = &peers[id].1[..] else {
                    panic!("{id}: {:?}", peers[id].1)
                };
                let wanted = (place <= 2).then(|| lease(in_line[0]));
                assert_eq!(
                    leader.as_ref().map(|leader| leader.lease),
                    wanted,
                    "place {place}: seed {seed}"
                );
            }
            let gone: Vec<_> = (0..random.usize(1..=2))
                .map(|_| in_line[random.usize(..in_line.len())])
                .collect();
            for id in &gone {
                model.keys.remove(id);
                peers.remove(id);
            }
            for (id, (election, actions)) in &mut peers {
                let Some(Action::Follow(Follow {
                    predecessor, ahead, ..
                })) = actions.first()
                else {
                    continue;
                };
                let waits_for = |gone: &i64| {
                    ahead
                        .iter()
                        .chain([predecessor])
                        .any(|key| key.lease == lease(*gone))
                };
                if gone.iter().any(waits_for) {
                    election.handle(Event::KeyGone);
                    *actions = election.handle(Event::Listed(model.list(*id)));
                }
            }
        }
    }
}

#[test]
fn a_leader_in_doubt_steps_down_before_anything_else() {
    let mut election = Election::default();
    election.handle(Event::LeaseHeld(lease(1)));
    election.handle(Event::Listed(vec![candidate(1, 5)]));
    assert_eq!(election.handle(Event::LeaseInDoubt), [Action::StepDown]);
    assert_eq!(election.handle(Event::Listed(vec![candidate(1, 5)])), []);
    assert_eq!(
        election.handle(Event::LeaseHeld(lease(1))),
        [Action::Campaign(lease(1))]
    );
    election.handle(Event::Listed(vec![candidate(1, 5)]));
    assert_eq!(
        election.handle(Event::KeyGone),
        [Action::StepDown, Action::Campaign(lease(1))]
    );
}

/// A model of etcd's side of an election: keys on leases, and a count of writes by fenced leaders.
#[derive(Default)]
struct Model {
    revision: i64,
    keys: BTreeMap<i64, i64>,
}

impl Model {
    fn stand(&mut self, lease: i64) {
        if !self.keys.contains_key(&lease) {
            self.revision += 1;
            self.keys.insert(lease, self.revision);
        }
    }

    /// The candidacy on this lease and those before it, as far as they matter.
    fn list(&self, lease: i64) -> Vec<Candidate> {
        let Some(own) = self.keys.get(&lease) else {
            return Vec::new();
        };
        let mut before: Vec<_> = self
            .keys
            .iter()
            .filter(|(_, created)| *created <= own)
            .collect();
        before.sort_by_key(|(_, created)| -**created);
        before
            .into_iter()
            .take(AHEAD + 1)
            .map(|(lease, created)| candidate(*lease, *created))
            .collect()
    }

    fn accepts(&self, term: Revision) -> bool {
        self.keys.values().any(|created| *created == term.0)
    }

    fn oldest(&self) -> Option<i64> {
        self.keys.values().min().copied()
    }
}

/// Law: at most one leader's writes can succeed, and only the oldest key's. Peers freeze, lose
/// leases and hear late.
#[test]
fn at_most_one_leader_can_write_in_five_thousand_histories() {
    for seed in 0..5_000 {
        let mut random = Rng::with_seed(seed);
        let mut model = Model::default();
        let mut peers: Vec<(i64, Election)> = (1..=6).map(|id| (id, Election::default())).collect();
        let mut next_lease = 10;
        for _ in 0..60 {
            let (lease_id, election) = &mut peers[random.usize(0..6)];
            let actions = match random.u8(0..6) {
                0 => {
                    model.keys.remove(lease_id); // etcd expires the lease; the peer may not know for long
                    Vec::new()
                }
                1 => election.handle(Event::LeaseInDoubt),
                2 => {
                    *lease_id = next_lease;
                    next_lease += 1;
                    election.handle(Event::LeaseHeld(lease(*lease_id)))
                }
                3 => election.handle(Event::KeyGone),
                _ => election.handle(Event::Listed(model.list(*lease_id))),
            };
            for action in actions {
                if let Action::Campaign(lease) = action {
                    model.stand(lease.value());
                }
            }
            let writers: Vec<_> = peers
                .iter()
                .filter_map(|(_, e)| e.term())
                .filter(|term| model.accepts(*term))
                .collect();
            assert!(writers.len() <= 1, "seed {seed}: {writers:?}");
            if let [writer] = writers[..] {
                assert_eq!(Some(writer.0), model.oldest(), "seed {seed}");
            }
        }
    }
}

#[test]
fn repeated_resignations_back_off() {
    let mut resignations = Resignations::default();
    let mut now = Instant::now();
    let mut waits = Vec::new();
    for _ in 0..8 {
        let wait = resignations.resigned(now);
        waits.push(wait.as_secs());
        now += wait;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(resignations.resigned(now + FORGIVEN_AFTER).as_secs(), 1);
}
