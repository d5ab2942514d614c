//! What a leader concludes from its own misses and from the answers of witnesses.

mod lossy;

use super::*;

/// Returns a leader and `count` configured servers at routable addresses, with uuids from 1
/// on, after a round.
fn mesh(count: u128) -> Desk {
    let mut desk = Desk::new();
    join(&mut desk, leader());
    (1..=count).for_each(|id| join(&mut desk, uuid(id)));
    let tokens = asked(&desk.pass(Duration::ZERO));
    for (uuid, token) in tokens {
        answer(&mut desk, uuid, token);
    }
    desk
}

fn join(desk: &mut Desk, uuid: Uuid) {
    let joining = Record {
        uuid,
        host: "10.0.0.1".into(),
        ..record(1, 0)
    };
    let token = probe(&desk.stands(joining));
    let written = configure(&answer(desk, uuid, token));
    let stands = Some(Revision(desk.revision + 1));
    desk.event(Event::WriteDone { uuid, stands });
    desk.stands(written);
}

fn answer(desk: &mut Desk, uuid: Uuid, token: Token) -> Vec<Action> {
    desk.event(Event::ProbeOk {
        uuid,
        token,
        digest: String::new(),
    })
}

fn asked(actions: &[Action]) -> Vec<(Uuid, Token)> {
    let probe = |action: &Action| {
        if let Action::Probe { uuid, token, .. } = action {
            Some((*uuid, *token))
        } else {
            None
        }
    };
    actions.iter().filter_map(probe).collect()
}

/// Runs the mesh for `time`; `reaches(from, to)` says who reaches whom. Returns the removals, and
/// whether the leader resigns.
fn live(
    desk: &mut Desk,
    time: Duration,
    reaches: impl Fn(Uuid, Uuid) -> bool,
) -> (Vec<Uuid>, bool) {
    let (mut removed, mut resigned) = (Vec::new(), false);
    let end = desk.now + time;
    let mut todo = Vec::new();
    while desk.now < end {
        while let Some(action) = todo.pop() {
            match action {
                Action::Probe { uuid, token, .. } if reaches(leader(), uuid) => {
                    todo.extend(answer(desk, uuid, token));
                }
                Action::Ask {
                    uuid,
                    token,
                    witnesses,
                    ..
                } => {
                    for (witness, _) in witnesses {
                        let testimony = match (reaches(leader(), witness), reaches(witness, uuid)) {
                            (false, _) => Testimony::None,
                            (true, true) => Testimony::Reached,
                            (true, false) => Testimony::NotReached,
                        };
                        todo.extend(desk.event(Event::Testified {
                            uuid,
                            token,
                            witness,
                            testimony,
                        }));
                    }
                }
                Action::Remove(Removal { uuid, .. }) => {
                    removed.push(uuid);
                    desk.registry.forget(uuid);
                    desk.registry.writing.remove(&uuid);
                }
                Action::Resign { .. } => resigned = true,
                _ => {}
            }
        }
        let next = desk.registry.deadline().min(end);
        desk.now = desk.now.max(next);
        todo.extend(desk.registry.tick(desk.now));
    }
    (removed, resigned)
}

const ROUND: Duration = Duration::from_secs(10);

#[test]
fn a_leader_that_alone_cannot_reach_a_server_resigns() {
    let mut desk = mesh(5);
    let reaches = |from, to| !(from == leader() && to == uuid(1));
    let (removed, resigned) = live(&mut desk, ROUND * 2, reaches);
    assert_eq!((removed.len(), resigned), (0, false), "once may be chance");
    let (removed, resigned) = live(&mut desk, ROUND + ROUND / 2, reaches);
    assert_eq!((removed.len(), resigned), (0, true));
}

/// A series of probes ends only in every second round.
#[test]
fn a_leader_with_short_rounds_resigns_as_well() {
    let mut desk = mesh(5);
    desk.registry.period = Duration::from_secs(2);
    desk.registry.timeout = Duration::from_secs(1);
    desk.pass(Duration::ZERO);
    let reaches = |from, to| !(from == leader() && to == uuid(1));
    let (removed, resigned) = live(&mut desk, ROUND * 2, reaches);
    assert_eq!((removed.len(), resigned), (0, true));
}

#[test]
fn a_leader_that_reaches_the_server_again_stays() {
    let mut desk = mesh(5);
    let mut after = live(&mut desk, ROUND / 2, |_, _| true);
    for _ in 0..5 {
        assert_eq!((after.0.len(), after.1), (0, false));
        let one = ROUND + ROUND / 4;
        let (removed, resigned) = live(&mut desk, one, |from, to| {
            !(from == leader() && to == uuid(1))
        });
        assert_eq!((removed.len(), resigned), (0, false));
        after = live(&mut desk, ROUND * 2 + ROUND * 3 / 4, |_, _| true);
    }
}

#[test]
fn witnesses_do_not_delay_the_removal_of_a_dead_server() {
    let mut desk = mesh(5);
    let (removed, _) = live(&mut desk, ROUND + Duration::from_millis(4_050), |_, to| {
        to != uuid(1)
    });
    assert_eq!(removed, [uuid(1)]);
}

#[test]
fn a_process_is_removed_once_a_witness_finds_it_gone() {
    let mut desk = mesh(2);
    let [
        Action::Ask {
            uuid: about,
            token,
            witnesses,
            ..
        },
    ] = &desk.gone(1)[..]
    else {
        panic!("nobody is asked")
    };
    assert_eq!(
        (*about, witnesses[0].0, witnesses.len()),
        (uuid(1), uuid(2), 1)
    );
    let testimony = Testimony::NotReached;
    let actions = desk.event(Event::Testified {
        uuid: uuid(1),
        token: *token,
        witness: uuid(2),
        testimony,
    });
    assert_eq!(
        removal(&actions),
        Some(("its process is gone", Some(lease(7))))
    );
}

#[test]
fn a_refused_connection_is_no_proof_if_a_witness_connects() {
    let mut desk = mesh(2);
    let [Action::Ask { token, .. }] = &desk.gone(1)[..] else {
        panic!("nobody is asked")
    };
    let (about, testimony) = (uuid(1), Testimony::Reached);
    let actions = desk.event(Event::Testified {
        uuid: about,
        token: *token,
        witness: uuid(2),
        testimony,
    });
    assert_eq!(removal(&actions), None);
    let said = warnings(&actions);
    assert!(
        said[0].contains(&format!("but server {} reaches it", uuid(2))),
        "{said:?}"
    );
}

#[test]
fn an_isolated_leader_removes_no_server_and_resigns() {
    let mut desk = mesh(5);
    let (removed, resigned) = live(&mut desk, ROUND * 3 + ROUND / 2, |from, to| {
        from == to || from != leader()
    });
    assert_eq!((removed.len(), resigned), (0, true));
}

#[test]
fn no_server_is_removed_when_most_are_unreachable_to_all() {
    let mut desk = mesh(9);
    let dead = |id: Uuid| (1..=7).map(uuid).any(|dead| dead == id);
    let (removed, resigned) = live(&mut desk, ROUND * 6, |_, to| !dead(to));
    assert_eq!((removed.len(), resigned), (0, false));
}

#[test]
fn an_advertised_loopback_address_does_not_blame_the_leader() {
    let mut desk = mesh(3);
    let elsewhere = Record {
        uuid: uuid(77),
        host: "127.0.0.1".into(),
        ..record(1, 0)
    };
    let token = probe(&desk.stands(elsewhere));
    let mut said = warnings(&desk.event(Event::ProbeFailed {
        uuid: uuid(77),
        token,
        reason: "connection refused".into(),
    }));
    for _ in 0..40 {
        let actions = desk.pass(Duration::from_secs(1));
        said.extend(warnings(&actions));
        assert!(
            !actions
                .iter()
                .any(|action| matches!(action, Action::Resign { .. }))
        );
        for (uuid, token) in asked(&actions)
            .into_iter()
            .filter(|(asked, _)| *asked != uuid(77))
        {
            answer(&mut desk, uuid, token);
        }
    }
    assert_eq!(
        said.iter()
            .filter(|line| line.contains("set PALM_IP (--ip) there"))
            .count(),
        1,
        "{said:?}"
    );
}

/// Invariants with a leader, 50 servers, and any reachability matrix: no server is removed that two
/// others reach which the leader can ask; one that nobody reaches is removed within the bound,
/// unless that is most of the mesh; a leader cut off from most servers resigns.
#[test]
fn suspicion_invariants_hold_in_two_thousand_meshes() {
    const SERVERS: u128 = 50;
    for seed in 0..2_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut desk = mesh(SERVERS);
        let dead: BTreeSet<Uuid> = (1..=SERVERS)
            .filter(|_| random.u8(0..20) == 0)
            .map(uuid)
            .collect();
        let loss = [0.0, 0.02, 0.3, 0.9][random.usize(0..4)];
        let leader_loss = [0.0, 0.05, 0.7, 1.0][random.usize(0..4)];
        let mut broken: BTreeSet<(Uuid, Uuid)> = BTreeSet::new();
        for from in (1..=SERVERS).map(uuid).chain([leader()]) {
            let loss = if from == leader() { leader_loss } else { loss };
            broken.extend(
                (1..=SERVERS)
                    .map(uuid)
                    .filter(|_| random.f64() < loss)
                    .map(|to| (from, to)),
            );
        }
        let reaches = |from: Uuid, to: Uuid| {
            from == to
                || !(dead.contains(&to) || dead.contains(&from) || broken.contains(&(from, to)))
        };
        let (removed, resigned) = live(&mut desk, ROUND * 3 + ROUND / 2, reaches);
        let others = || (1..=SERVERS).map(uuid);
        let heard = || others().filter(|witness| reaches(leader(), *witness));
        for to in &removed {
            // With three witnesses at random, a server that all possible witnesses reach
            // is never removed.
            assert!(
                !heard().all(|witness| witness == *to || reaches(witness, *to))
                    || heard().count() == 0,
                "seed {seed}: {to}"
            );
            assert!(!reaches(leader(), *to), "seed {seed}: {to}");
        }
        let unreached = others().filter(|to| !reaches(leader(), *to)).count();
        if unreached * 2 < usize::try_from(SERVERS).unwrap_or(0) {
            for to in &dead {
                assert!(removed.contains(to), "seed {seed}: {to} is dead");
            }
        }
        let alive = others().filter(|to| !dead.contains(to));
        if alive.clone().filter(|to| !reaches(leader(), *to)).count() * 2 > alive.count() {
            assert!(
                resigned,
                "seed {seed}: {unreached} unreached, {leader_loss} {loss}"
            );
        }
    }
}
