//! What a new leader does with its predecessor's published keys and records.

use super::*;

/// Returns the registry of a leader that finds these instances published.
fn successor(found: impl IntoIterator<Item = Published>) -> Desk {
    let mut desk = Desk::new();
    desk.registry = Registry::new(leader(), &ValidConfig::default(), found, 7, desk.now);
    desk
}

fn inherited(id: u128) -> Record {
    Record {
        configured: true,
        leader: Some(uuid(999)),
        ..record(id, 0)
    }
}

fn published(id: u128, lease_id: i64) -> Published {
    Published {
        instance: Instance::of(&record(id, 0)),
        lease: Some(lease(lease_id)),
    }
}

#[test]
fn a_takeover_keeps_published_keys_and_updates_the_leader() {
    let mut desk = successor([published(1, 7)]);
    let token = probe(&desk.stands(inherited(1)));
    assert_eq!(desk.published(), [uuid(1)]);
    assert_eq!(
        desk.registry.take_unvouched(9),
        [],
        "nothing is trusted before it is checked"
    );
    let answered = desk.answer(1, token);
    assert!(
        !answered
            .iter()
            .any(|action| matches!(action, Action::Configure { .. })),
        "{answered:?}"
    );
    let renamed = Record {
        leader: Some(leader()),
        ..inherited(1)
    };
    assert_eq!(
        desk.registry.take_unvouched(9),
        [(renamed.clone(), Revision(101))]
    );
    assert_eq!(desk.registry.take_unvouched(9), [], "one write at a time");
    desk.written(1, true);
    assert_eq!(desk.stands(renamed), []);
    assert_eq!(desk.registry.take_unvouched(9), []);
    assert!(!desk.registry.is_busy());
}

#[test]
fn a_takeover_publishes_missing_and_outdated_keys() {
    let elsewhere = Instance {
        endpoint: "tcp://elsewhere:1".into(),
        ..Instance::of(&record(1, 0))
    };
    for found in [
        None,
        Some(published(1, 8)),
        Some(Published {
            instance: elsewhere,
            lease: Some(lease(7)),
        }),
    ] {
        let mut desk = successor(found.clone());
        let token = probe(&desk.stands(inherited(1)));
        let written = configure(&desk.answer(1, token));
        assert_eq!(
            written,
            Record {
                leader: Some(leader()),
                ..inherited(1)
            },
            "{found:?}"
        );
        assert_eq!(desk.written(1, true), []);
        assert_eq!(desk.stands(written), [], "{found:?}");
        assert_eq!(desk.registry.take_unvouched(9), [], "{found:?}");
    }
}

#[test]
fn a_server_that_is_not_ready_is_configured_and_vouched_for_but_not_published() {
    let mut not_ready = inherited(1);
    not_ready.set_ready(false);
    // What an earlier leader published wrongly is withdrawn with the next write.
    for (found, wrong) in [(None, false), (Some(published(1, 7)), true)] {
        let mut desk = successor(found);
        let token = probe(&desk.stands(not_ready.clone()));
        let answered = desk.answer(1, token);
        let writes = answered
            .iter()
            .any(|action| matches!(action, Action::Configure { .. }));
        assert_eq!(writes, wrong, "{answered:?}");
        if wrong {
            assert!(!configure(&answered).is_ready());
            desk.written(1, true);
            desk.stands(configure(&answered));
        } else {
            let renamed = desk.registry.take_unvouched(9).remove(0).0;
            assert!(!renamed.is_ready());
            desk.written(1, true);
            assert_eq!(desk.stands(renamed), []);
        }
        assert!(desk.published().is_empty());
        assert!(!desk.registry.is_busy());
    }
}

#[test]
fn readiness_publishes_and_withdraws_a_server() {
    let mut desk = Desk::new();
    let written = desk.configured(1);
    let mut not_ready = written.clone();
    not_ready.set_ready(false);
    // The server has deleted the published key in the same transaction.
    let actions = desk.stands(not_ready.clone());
    let [Action::Log(line)] = &actions[..] else {
        panic!("more than a line: {actions:?}");
    };
    let text = format!("Server {} is not ready: clients do not call it", uuid(1));
    assert_eq!(line.text, text);
    assert!(desk.published().is_empty());
    // When it is ready again, it is checked like a new one.
    let token = probe(&desk.stands(record(1, 0)));
    assert_eq!(configure(&desk.answer(1, token)), written);
    desk.written(1, true);
    desk.stands(written);
    assert_eq!(desk.published(), [uuid(1)]);
}

#[test]
fn a_takeover_withdraws_keys_of_unknown_servers() {
    let mut desk = successor([published(1, 7), published(2, 7), published(3, 7)]);
    desk.stands(inherited(1));
    let broken = desk.event(Event::Invalid {
        key: format!("/servers/{}", uuid(2)),
        reason: "EOF".into(),
    });
    assert_eq!(withdrawals(&broken), [uuid(2)]);
    assert_eq!(withdrawals(&desk.registry.listed()), [uuid(3)]);
    assert_eq!(desk.registry.listed(), [], "once");
}

#[test]
fn a_record_changed_by_hand_is_published_again_if_visible() {
    let mut desk = Desk::new();
    let written = desk.configured(1);
    assert_eq!(
        desk.stands(Record {
            pid: 7,
            ..written.clone()
        }),
        [],
        "clients do not see it"
    );
    let changed = Record {
        functions: vec!["more".into()],
        ..written
    };
    let republished = configure(&desk.stands(changed.clone()));
    assert_eq!(republished, changed);
    desk.written(1, true);
    assert_eq!(desk.stands(republished), [], "once");
}

#[test]
fn a_takeover_updates_records_in_batches_and_retries() {
    let mut desk = successor((1..=5).map(|id| published(id, 7)));
    for id in 1..=5 {
        let token = probe(&desk.stands(inherited(id)));
        desk.answer(id, token);
    }
    assert_eq!(desk.registry.take_unvouched(3).len(), 3);
    assert_eq!(desk.registry.take_unvouched(3).len(), 2);
    desk.written(4, false);
    let actions = desk.pass(Duration::from_secs(1));
    let asked = actions.iter().find_map(|action| match action {
        Action::Probe {
            uuid: asked, token, ..
        } if *asked == uuid(4) => Some(*token),
        _ => None,
    });
    desk.answer(4, asked.expect("it is probed again"));
    let again = desk.registry.take_unvouched(3);
    assert_eq!(
        again
            .iter()
            .map(|(record, _)| record.uuid)
            .collect::<Vec<_>>(),
        [uuid(4)]
    );
}
