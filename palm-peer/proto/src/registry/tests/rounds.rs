//! The rounds as they are logged, and their timing.

use super::*;

fn info(text: &str) -> String {
    format!("INFO:{text}")
}

#[test]
fn an_empty_round_logs_pylms_lines() {
    let mut desk = Desk::new();
    let empty = ["No servers found", "0 dead servers", "0 servers remaining"].map(info);
    assert_eq!(lines(&desk.pass(Duration::ZERO)), empty);
    assert_eq!(desk.pass(9_999 * MS), []);
    assert_eq!(lines(&desk.pass(MS)), empty);
    assert_eq!(desk.registry.rounds(), 2);
}

#[test]
fn a_round_over_live_servers_logs_pylms_lines() {
    let mut desk = Desk::new();
    desk.configured(1);
    desk.configured(2);
    let actions = desk.pass(Duration::ZERO);
    let mut said = lines(&actions);
    let [one, two] = probes(&actions)[..] else {
        panic!("{actions:?}")
    };
    assert!(desk.registry.is_busy());
    said.extend(lines(&desk.answer(1, one)));
    said.extend(lines(&desk.answer(2, two)));
    assert!(!desk.registry.is_busy());
    assert_eq!(
        said,
        [
            "Found 2 servers, probing all of them".to_owned(),
            "2 servers remaining".to_owned(),
            format!("{}/printf/registered : b'I,D'", uuid(1)),
            format!("{}/printf/registered : b'I,D'", uuid(2)),
            "0 dead servers".to_owned(),
            "2 servers remaining".to_owned(),
        ]
        .map(|line| info(&line))
    );
    assert_eq!(desk.answer(1, one), [], "an answer counts once");
}

#[test]
fn a_server_that_dies_during_a_round_is_counted_in_it() {
    let mut desk = Desk::new();
    desk.configured(1);
    desk.configured(2);
    let tokens = probes(&desk.pass(Duration::ZERO));
    desk.answer(2, tokens[1]);
    assert!(removal(&desk.pass(Duration::from_secs(4))).is_some());
    assert_eq!(desk.written(1, true), []);
    let end = desk.deleted(
        1,
        Some((RemovedBy::Registry, "it does not answer")),
        false,
        true,
    );
    let said = format!("Deleted server {} because it does not answer", uuid(1));
    assert_eq!(
        lines(&end),
        [&said, "1 dead servers", "1 servers remaining"].map(info)
    );
}

#[test]
fn a_server_that_dies_between_rounds_is_not_counted() {
    let mut desk = Desk::new();
    desk.configured(1);
    let token = probe(&desk.pass(Duration::ZERO));
    desk.answer(1, token);
    assert_eq!(
        lines(&desk.deleted(1, Some((RemovedBy::Itself, "")), false, true)).len(),
        1
    );
    let empty = ["No servers found", "0 dead servers", "0 servers remaining"].map(info);
    assert_eq!(lines(&desk.pass(Duration::from_secs(10))), empty);
}

/// A series may last longer than the period; the next round starts in time, and the
/// series continues.
#[test]
fn an_overdue_round_ends_when_the_next_begins() {
    let mut desk = Desk::new();
    desk.registry.period = Duration::from_secs(3);
    desk.configured(1);
    desk.configured(2);
    let tokens = probes(&desk.pass(Duration::ZERO));
    desk.answer(1, tokens[0]);
    desk.pass(2_999 * MS);
    let next = desk.pass(MS);
    let said: Vec<_> = lines(&next)
        .into_iter()
        .filter(|line| !line.starts_with("WARN"))
        .collect();
    let whole = [
        "0 dead servers",
        "2 servers remaining",
        "Found 2 servers, probing all of them",
        "2 servers remaining",
    ];
    assert_eq!(said, whole.map(info));
    assert_eq!(probes(&next).len(), 1, "only the one without a series");
    assert_eq!(desk.registry.rounds(), 2);
    assert!(
        removal(&desk.pass(Duration::from_secs(1))).is_some(),
        "the series kept its time"
    );
}

#[test]
fn a_round_waits_for_no_removal_longer_than_its_period() {
    let mut desk = Desk::new();
    desk.configured(1);
    desk.pass(Duration::ZERO);
    assert!(removal(&desk.gone(1)).is_some());
    let said = lines(&desk.pass(Duration::from_secs(10)));
    assert_eq!(
        said[..2],
        ["0 dead servers", "1 servers remaining"].map(info),
        "etcd is silent"
    );
    assert_eq!(desk.registry.rounds(), 2);
}

/// The leader was stopped: time passed, and no answer reached it.
#[test]
fn a_leader_that_was_paused_counts_no_misses() {
    let mut desk = Desk::new();
    desk.configured(1);
    let mut stale = probes(&desk.pass(Duration::ZERO));
    stale.extend(probes(&desk.pass(Duration::from_secs(2))));
    assert_eq!(stale.len(), 3);
    desk.now += Duration::from_secs(60);
    // The requests to all three are given up before the next tick.
    let mut actions = desk.refuse(1, stale[1], "no answer");
    actions.extend(desk.refuse(1, stale[2], "no answer"));
    actions.extend(desk.registry.tick(desk.now));
    assert_eq!(
        (removal(&actions), probes(&actions).len()),
        (None, 1),
        "{actions:?}"
    );
    // From here on the usual deadlines apply.
    assert_eq!(removal(&desk.pass(3_999 * MS)), None);
    assert!(removal(&desk.pass(MS)).is_some());
}

#[test]
fn a_leader_that_was_paused_starts_a_round_at_once() {
    let mut desk = Desk::new();
    desk.configured(1);
    let token = probe(&desk.pass(Duration::ZERO));
    desk.answer(1, token);
    desk.now += Duration::from_secs(100);
    let actions = desk.registry.tick(desk.now);
    assert_eq!(probes(&actions).len(), 1);
    assert!(desk.registry.deadline() > desk.now);
    assert_eq!(desk.registry.rounds(), 2);
}

#[test]
fn probes_the_leader_cannot_send_remove_no_server() {
    let mut desk = Desk::new();
    for id in 1..=50 {
        desk.configured(id);
    }
    let mut warnings = 0;
    for _ in 0..6_000 {
        let actions = desk.pass(100 * MS);
        assert!(removal(&actions).is_none());
        for action in &actions {
            let Action::Probe { uuid, token, .. } = action else {
                continue;
            };
            let reason = "Too many open files".into();
            let after = desk.event(Event::Unsent {
                uuid: *uuid,
                token: *token,
                reason,
            });
            assert!(removal(&after).is_none());
            warnings += lines(&after)
                .iter()
                .filter(|line| line.starts_with("WARN"))
                .count();
        }
    }
    assert_eq!(desk.published().len(), 50);
    assert!(
        (9..=11).contains(&warnings),
        "{warnings} lines in ten minutes"
    );
    // Once it can send, dead servers are found as usual.
    let mut removed = None;
    for _ in 0..200 {
        let actions = desk.pass(100 * MS);
        removed = removed.or(removal(&actions));
        for action in actions {
            let Action::Probe {
                uuid: asked, token, ..
            } = action
            else {
                continue;
            };
            if asked != uuid(1) {
                desk.event(Event::ProbeOk {
                    uuid: asked,
                    token,
                    digest: String::new(),
                });
            }
        }
    }
    assert!(removed.is_some());
}

#[test]
fn probes_of_a_large_mesh_are_spread_and_bounded() {
    let mut desk = Desk::new();
    let mut random = fastrand::Rng::with_seed(7);
    desk.pass(Duration::ZERO);
    let mut open: Vec<(Uuid, Token)> = Vec::new();
    let collect = |open: &mut Vec<(Uuid, Token)>, actions: Vec<Action>| {
        open.extend(actions.iter().filter_map(|action| match action {
            Action::Probe { uuid, token, .. } => Some((*uuid, *token)),
            _ => None,
        }));
    };
    let servers: Vec<u128> = (0..3_000).map(|_| random.u128(..)).collect();
    for id in &servers {
        let record = Record {
            uuid: uuid(*id),
            ports: vec![1],
            ..record(1, 0)
        };
        let actions = desk.stands(record);
        collect(&mut open, actions);
    }
    assert_eq!(open.len(), schedule::MAX_PROBES, "the others wait");
    let mut answered = 0;
    while let Some((uuid, token)) = open.pop() {
        answered += 1;
        let actions = desk.event(Event::ProbeOk {
            uuid,
            token,
            digest: String::new(),
        });
        collect(&mut open, actions);
        assert!(open.len() <= schedule::MAX_PROBES);
    }
    assert_eq!(answered, servers.len(), "each in its turn");
    // In the round in which they registered, those whose place was still to come; then each once;
    // never more than their share at a time.
    let places = desk
        .registry
        .servers
        .values()
        .filter(|entry| entry.turn_at.is_some())
        .count();
    assert!(places < servers.len());
    for wanted in [places, servers.len(), servers.len()] {
        let mut counts = Vec::new();
        for _ in 0..100 {
            let sent = std::mem::take(&mut open);
            counts.push(sent.len());
            for (uuid, token) in sent {
                desk.event(Event::ProbeOk {
                    uuid,
                    token,
                    digest: String::new(),
                });
            }
            collect(&mut open, desk.pass(100 * MS));
        }
        let (all, max) = (counts.iter().sum::<usize>(), counts.iter().copied().max());
        assert_eq!(all, wanted);
        assert!(max.is_some_and(|max| max < 150), "{max:?}");
    }
}

/// Each group of probes wakes the leader up once, and its answers come at about the same time.
#[test]
fn probes_of_a_hundred_servers_are_sent_in_few_groups() {
    let mut desk = Desk::new();
    let mut random = fastrand::Rng::with_seed(3);
    desk.pass(Duration::ZERO);
    for _ in 0..100 {
        let record = Record {
            uuid: uuid(random.u128(..)),
            ports: vec![1],
            ..record(1, 0)
        };
        desk.stands(record);
    }
    for round in 0..3 {
        let mut groups = Vec::new();
        for _ in 0..10_000 {
            let actions = desk.pass(MS);
            let probes: Vec<_> = actions
                .iter()
                .filter_map(|action| match action {
                    Action::Probe { uuid, token, .. } => Some((*uuid, *token)),
                    _ => None,
                })
                .collect();
            if !probes.is_empty() {
                groups.push(probes.len());
            }
            for (uuid, token) in probes {
                desk.event(Event::ProbeOk {
                    uuid,
                    token,
                    digest: String::new(),
                });
            }
        }
        // Servers that registered in the first round keep a distance to the next one.
        if round > 0 {
            assert_eq!(groups.iter().sum::<usize>(), 100, "{groups:?}");
            assert!(groups.len() <= 5, "{groups:?}");
        }
    }
}

/// Their probes take all free places, and the server that is due takes the next free one.
#[test]
fn a_new_server_is_probed_soon_beside_thousands_that_never_answer() {
    let mut random = fastrand::Rng::with_seed(11);
    let mut desk = Desk::new();
    desk.pass(Duration::ZERO);
    for _ in 0..5_000 {
        desk.stands(Record {
            uuid: Uuid::from_u128(random.u128(..)),
            ..record(1, 0)
        });
    }
    // Each has been tried by then.
    desk.pass(Duration::from_secs(120));
    let series = desk.registry.timeout + RETRY * (desk.registry.most_misses - 1);
    for _ in 0..20 {
        desk.pass(Duration::from_millis(random.u64(..10_000)));
        let new = Uuid::from_u128(random.u128(..));
        let since = desk.now;
        let mut actions = desk.stands(Record {
            uuid: new,
            ..record(1, 0)
        });
        while !actions
            .iter()
            .any(|action| matches!(action, Action::Probe { uuid, .. } if *uuid == new))
        {
            assert!(
                desk.now - since <= series + 50 * MS,
                "there is room by then, and the new one comes first"
            );
            actions = desk.pass(50 * MS);
        }
    }
}

#[test]
fn digests_of_many_servers_are_logged_at_debug() {
    for (verbosity, wanted) in [(LevelFilter::Info, 0), (LevelFilter::Debug, 1)] {
        let mut desk = Desk::new();
        (1..=21).for_each(|id| drop(desk.configured(id)));
        desk.registry.set_verbosity(verbosity);
        let mut tokens = probes(&desk.pass(Duration::ZERO));
        tokens.extend(probes(&desk.pass(100 * MS)));
        assert_eq!(tokens.len(), 21);
        let answers = tokens[..20]
            .iter()
            .flat_map(|token| (1..=21).map(|id| (id, *token)));
        let said: Vec<_> = answers
            .flat_map(|(id, token)| lines(&desk.answer(id, token)))
            .collect();
        assert_eq!(
            said.iter().filter(|line| line.contains("b'I,D'")).count(),
            20 * wanted,
            "{verbosity}"
        );
        let full = (1..=21).flat_map(|id| {
            let digest = "E:went wrong".to_owned();
            lines(&desk.event(Event::ProbeOk {
                uuid: uuid(id),
                token: tokens[20],
                digest,
            }))
        });
        assert!(
            full.into_iter()
                .any(|line| line.starts_with("INFO") && line.contains("went wrong")),
            "{verbosity}"
        );
    }
}
