use super::*;
use crate::config::ValidConfig;

mod bounded;
mod fresh;
mod mute;
mod rounds;
mod simulation;
mod suspicion;
mod takeover;

const MS: Duration = Duration::from_millis(1);

fn uuid(id: u128) -> Uuid {
    Uuid::from_u128(id)
}

fn lease(id: i64) -> LeaseId {
    LeaseId::new(id).expect("not zero")
}

fn record(id: u128, life: u32) -> Record {
    let when = format!(
        "2026-01-01T{:02}:{:02}:{:02}.000001",
        life / 3600 % 24,
        life / 60 % 60,
        life % 60
    );
    Record {
        host: "127.0.0.1".into(),
        pid: 1,
        when: when.parse().expect("a time"),
        leader: None,
        server: "printf".into(),
        ports: vec![5000 + u16::try_from(id).expect("small")],
        kind: "registered".into(),
        functions: vec!["printf".into()],
        uuid: uuid(id),
        configured: false,
        extra: serde_json::Map::new(),
    }
}

fn leader() -> Uuid {
    uuid(1_000)
}

/// A registry, with a simulated clock and etcd's revision.
struct Desk {
    registry: Registry,
    now: Instant,
    revision: i64,
}

impl Desk {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            registry: Registry::new(leader(), &ValidConfig::default(), [], 7, now),
            now,
            revision: 100,
        }
    }

    fn event(&mut self, event: Event) -> Vec<Action> {
        self.registry.handle(event, self.now)
    }

    /// Lets `time` pass, ticking at each deadline on the way.
    fn pass(&mut self, time: Duration) -> Vec<Action> {
        let end = self.now + time;
        let mut actions = Vec::new();
        while self.registry.deadline() <= end {
            self.now = self.now.max(self.registry.deadline());
            actions.extend(self.registry.tick(self.now));
            assert!(self.registry.deadline() > self.now, "a busy loop");
        }
        self.now = end;
        actions
    }

    fn stands(&mut self, record: Record) -> Vec<Action> {
        self.revision += 1;
        self.event(Event::Registered {
            record,
            modified: Revision(self.revision),
            lease: Some(lease(7)),
        })
    }

    /// A server joins, answers, and is configured.
    fn configured(&mut self, id: u128) -> Record {
        let token = probe(&self.stands(record(id, 0)));
        let written = configure(&self.answer(id, token));
        self.written(id, true);
        self.stands(written.clone());
        written
    }

    fn answer(&mut self, id: u128, token: Token) -> Vec<Action> {
        self.event(Event::ProbeOk {
            uuid: uuid(id),
            token,
            digest: "I,D".into(),
        })
    }

    fn refuse(&mut self, id: u128, token: Token, reason: &str) -> Vec<Action> {
        self.event(Event::ProbeFailed {
            uuid: uuid(id),
            token,
            reason: reason.into(),
        })
    }

    fn written(&mut self, id: u128, done: bool) -> Vec<Action> {
        self.event(Event::WriteDone {
            uuid: uuid(id),
            stands: done.then_some(Revision(self.revision + 1)),
        })
    }

    fn gone(&mut self, id: u128) -> Vec<Action> {
        self.event(Event::ProcessGone { uuid: uuid(id) })
    }

    fn deleted(
        &mut self,
        id: u128,
        departure: Option<(RemovedBy, &str)>,
        reset: bool,
        lease_alive: bool,
    ) -> Vec<Action> {
        let written = self
            .registry
            .servers
            .get(&uuid(id))
            .map_or(Revision(0), |entry| entry.modified);
        let when = record(1, 0).when;
        let departure = departure.map(|(why, reason)| Tombstone {
            why,
            reason: reason.into(),
            when,
        });
        self.event(Event::Deleted {
            uuid: uuid(id),
            written,
            departure,
            reset,
            lease_alive,
        })
    }

    fn published(&self) -> Vec<Uuid> {
        self.registry
            .reachable()
            .map(|record| record.uuid)
            .collect()
    }
}

fn probes(actions: &[Action]) -> Vec<Token> {
    actions
        .iter()
        .filter_map(|a| {
            if let Action::Probe { token, .. } = a {
                Some(*token)
            } else {
                None
            }
        })
        .collect()
}

fn probe(actions: &[Action]) -> Token {
    let [token] = probes(actions)[..] else {
        panic!("not one probe: {actions:?}")
    };
    token
}

fn configure(actions: &[Action]) -> Record {
    let mut writes = actions.iter().filter_map(|a| {
        if let Action::Configure { record, .. } = a {
            Some(record)
        } else {
            None
        }
    });
    writes
        .next()
        .cloned()
        .unwrap_or_else(|| panic!("nothing is configured: {actions:?}"))
}

fn removal(actions: &[Action]) -> Option<(&'static str, Option<LeaseId>)> {
    actions.iter().find_map(|a| match a {
        Action::Remove(Removal {
            reason,
            lease,
            revoke,
            ..
        }) => Some((*reason, lease.filter(|_| *revoke))),
        _ => None,
    })
}

fn withdrawals(actions: &[Action]) -> Vec<Uuid> {
    let of = |action: &Action| {
        if let Action::Withdraw { uuid, .. } = action {
            Some(*uuid)
        } else {
            None
        }
    };
    actions.iter().filter_map(of).collect()
}

fn lines(actions: &[Action]) -> Vec<String> {
    let line = |a: &Action| {
        if let Action::Log(line) = a {
            Some(format!("{}:{}", line.level, line.text))
        } else {
            None
        }
    };
    actions.iter().filter_map(line).collect()
}

fn warnings(actions: &[Action]) -> Vec<String> {
    lines(actions)
        .into_iter()
        .filter(|line| line.starts_with("WARN"))
        .collect()
}

#[test]
fn a_new_server_is_configured_once_its_endpoint_answers() {
    let mut desk = Desk::new();
    let asked = desk.stands(record(1, 0));
    let [
        Action::Probe {
            endpoint, token, ..
        },
    ] = &asked[..]
    else {
        panic!("{asked:?}")
    };
    assert_eq!(endpoint, "tcp://127.0.0.1:5001");
    assert!(desk.published().is_empty());
    let written = desk.answer(1, *token);
    let right = Record {
        configured: true,
        leader: Some(leader()),
        ..record(1, 0)
    };
    let configured = Action::Configure {
        record: right.clone(),
        modified: Revision(101),
        lease: Some(lease(7)),
    };
    assert_eq!(written, [configured]);
    assert!(desk.published().is_empty(), "not before it stands");
    assert_eq!(desk.written(1, true), []);
    assert_eq!(
        lines(&desk.stands(right)),
        [format!("INFO:Server {} configured", uuid(1))]
    );
    assert_eq!(desk.published(), [uuid(1)]);
}

#[test]
fn a_failed_write_is_followed_by_another_read() {
    let mut desk = Desk::new();
    let token = probe(&desk.stands(record(1, 0)));
    configure(&desk.answer(1, token));
    desk.pass(500 * MS);
    assert_eq!(desk.written(1, false), []);
    assert_eq!(probes(&desk.pass(999 * MS)), []);
    let token = probe(&desk.pass(MS));
    configure(&desk.answer(1, token));
}

#[test]
fn a_change_during_a_write_delays_the_next_write() {
    let mut desk = Desk::new();
    let token = probe(&desk.stands(record(1, 0)));
    configure(&desk.answer(1, token));
    let mut changed = record(1, 0);
    changed.functions.push("more".into());
    assert_eq!(desk.stands(changed.clone()), []);
    assert_eq!(desk.written(1, false), []);
    let token = probe(&desk.pass(Duration::from_secs(1)));
    assert_eq!(
        configure(&desk.answer(1, token)).functions,
        changed.functions
    );
}

#[test]
fn the_watch_may_overtake_the_response_to_a_write() {
    let mut desk = Desk::new();
    let token = probe(&desk.stands(record(1, 0)));
    let written = configure(&desk.answer(1, token));
    desk.stands(written);
    let stands = Some(Revision(desk.revision));
    assert_eq!(
        desk.event(Event::WriteDone {
            uuid: uuid(1),
            stands
        }),
        []
    );
    assert_eq!(desk.published(), [uuid(1)]);
    assert!(!desk.registry.is_busy());
}

#[test]
fn an_unreachable_server_logs_each_reason_once() {
    let mut desk = Desk::new();
    let first = probe(&desk.stands(Record {
        host: "10.0.0.1".into(),
        ..record(1, 0)
    }));
    let said = |reason: &str| {
        let message =
            format!("stays unconfigured: it does not answer at tcp://10.0.0.1:5001: {reason}");
        [format!("WARN:Server {} {message}", uuid(1))]
    };
    assert_eq!(
        lines(&desk.refuse(1, first, "connection refused")),
        said("connection refused")
    );
    assert_eq!(
        desk.refuse(1, first, "connection refused"),
        [],
        "a stale token"
    );
    for _ in 0..30 {
        let actions = desk.pass(Duration::from_secs(1));
        assert_eq!(removal(&actions), None);
        for token in probes(&actions) {
            assert_eq!(
                warnings(&desk.refuse(1, token, "connection refused")),
                [""; 0]
            );
        }
    }
    assert_eq!(desk.gone(1), [], "a wrong address proves nothing");
    assert_eq!(
        warnings(&desk.pass(Duration::from_secs(60))),
        said("no answer within 2s")
    );
    assert_eq!(desk.registry.servers.len(), 1);
}

#[test]
fn a_silent_server_is_removed_after_three_misses_and_not_before() {
    let mut desk = Desk::new();
    desk.configured(1);
    desk.pass(Duration::ZERO); // The first round.
    let before = desk.pass(3_999 * MS);
    assert_eq!((probes(&before).len(), removal(&before)), (2, None));
    let missed = |n: u32| {
        format!(
            "WARN:Server {} missed probe {n} of 3 at tcp://127.0.0.1:5001: no answer within 2s",
            uuid(1)
        )
    };
    assert_eq!(lines(&before), [missed(1), missed(2)]);
    assert_eq!(desk.published(), [uuid(1)]);
    let end = desk.pass(MS);
    assert_eq!(
        removal(&end),
        Some(("it does not answer", None)),
        "its lease is its own"
    );
    assert_eq!(lines(&end), [missed(3)]);
    assert!(desk.published().is_empty());
}

#[test]
fn any_answer_resets_the_misses() {
    for answered in 0..3 {
        let mut desk = Desk::new();
        desk.configured(1);
        let mut tokens = probes(&desk.pass(Duration::ZERO));
        tokens.extend(probes(&desk.pass(1_999 * MS)));
        tokens.extend(probes(&desk.pass(2 * MS)));
        // The first one is overdue by now, but a late answer proves as much.
        desk.answer(1, tokens[answered]);
        let rest = desk.pass(7 * Duration::from_secs(1));
        assert_eq!(removal(&rest), None, "{answered}");
    }
}

#[test]
fn a_process_proven_gone_is_removed_with_its_lease() {
    let mut desk = Desk::new();
    desk.configured(1);
    assert_eq!(
        removal(&desk.gone(1)),
        Some(("its process is gone", Some(lease(7))))
    );
    assert!(desk.published().is_empty());
    assert_eq!(desk.gone(1), [], "one write at a time");
    desk.written(1, true);
    assert_eq!(desk.gone(1), [], "the watch is about to tell");
    let gone = desk.deleted(
        1,
        Some((RemovedBy::Registry, "its process is gone")),
        false,
        false,
    );
    assert_eq!(
        lines(&gone),
        [format!(
            "INFO:Deleted server {} because its process is gone",
            uuid(1)
        )]
    );
}

#[test]
fn a_failed_removal_is_tried_again() {
    let mut desk = Desk::new();
    desk.configured(1);
    assert!(removal(&desk.gone(1)).is_some());
    desk.written(1, false);
    for _ in 0..2 {
        let token = probe(
            &desk
                .pass(Duration::from_secs(1))
                .into_iter()
                .filter(|a| matches!(a, Action::Probe { .. }))
                .collect::<Vec<_>>(),
        );
        assert_eq!(removal(&desk.refuse(1, token, "connection refused")), None);
    }
    let token = probe(&desk.pass(Duration::from_secs(1)));
    assert_eq!(
        removal(&desk.refuse(1, token, "connection refused")),
        Some(("it does not answer", None))
    );
}

#[test]
fn a_server_that_dies_during_configuration_is_removed() {
    let mut desk = Desk::new();
    let token = probe(&desk.stands(record(1, 0)));
    let written = configure(&desk.answer(1, token));
    assert_eq!(desk.gone(1), []);
    assert_eq!(desk.written(1, true), []);
    let removed = desk.stands(written);
    assert_eq!(
        removal(&removed),
        Some(("its process is gone", Some(lease(7))))
    );
    assert!(desk.published().is_empty());
}

#[test]
fn each_cause_of_removal_has_its_message() {
    for (departure, reset, lease_alive, message) in [
        (
            Some((RemovedBy::Itself, "x")),
            false,
            true,
            "it killed itself",
        ),
        (
            Some((RemovedBy::Registry, "it does not answer")),
            false,
            true,
            "it does not answer",
        ),
        (
            Some((RemovedBy::Registry, "its process is gone")),
            false,
            false,
            "its process is gone",
        ),
        (
            Some((RemovedBy::Admin, "x")),
            false,
            true,
            "an administrator removed it",
        ),
        (None, false, true, "an administrator removed it"),
        (None, false, false, "its lease expired"),
        (
            Some((RemovedBy::Admin, "x")),
            true,
            true,
            "the mesh was reset",
        ),
    ] {
        let mut desk = Desk::new();
        desk.configured(1);
        let actions = desk.deleted(1, departure, reset, lease_alive);
        assert_eq!(
            lines(&actions),
            [format!("INFO:Deleted server {} because {message}", uuid(1))]
        );
        // Only a deletion by hand deletes the record alone.
        let by_hand = departure.is_none() && lease_alive && !reset;
        assert_eq!(!withdrawals(&actions).is_empty(), by_hand, "{message}");
        assert!(desk.published().is_empty() && desk.registry.endpoint(uuid(1)).is_none());
        assert_eq!(desk.deleted(1, departure, reset, lease_alive), [], "once");
    }
}

#[test]
fn a_server_that_re_registers_during_its_removal_is_kept() {
    let mut desk = Desk::new();
    desk.configured(1);
    let written = Revision(desk.revision);
    let token = probe(&desk.stands(record(1, 5)));
    let gone = Event::Deleted {
        uuid: uuid(1),
        written,
        departure: None,
        reset: false,
        lease_alive: false,
    };
    assert_eq!(
        lines(&desk.event(gone)),
        [format!(
            "INFO:Deleted server {} because its lease expired",
            uuid(1)
        )]
    );
    configure(&desk.answer(1, token));
}

#[test]
fn a_new_registration_waits_for_a_write_to_the_old_one() {
    let mut desk = Desk::new();
    desk.configured(1);
    assert!(removal(&desk.gone(1)).is_some());
    let token = probe(&desk.stands(record(1, 5)));
    assert_eq!(desk.answer(1, token), [], "two writes to one record");
    configure(&desk.written(1, true));
}

#[test]
fn a_record_reset_by_hand_is_probed_and_configured_again() {
    let mut desk = Desk::new();
    let written = desk.configured(1);
    let token = probe(&desk.stands(Record {
        configured: false,
        ..written.clone()
    }));
    assert!(desk.published().is_empty());
    assert_eq!(configure(&desk.answer(1, token)), written);
}

#[test]
fn an_invalid_record_is_logged_once_and_may_be_repaired() {
    let mut desk = Desk::new();
    let key = format!("/servers/{}", uuid(1));
    let broken = || Event::Invalid {
        key: key.clone(),
        reason: "EOF".into(),
    };
    let said = [format!(
        "WARN:{key} is not a valid record of a server, and is ignored: EOF"
    )];
    assert_eq!(lines(&desk.event(broken())), said);
    assert_eq!(desk.event(broken()), []);
    desk.event(Event::InvalidRemoved { key: key.clone() });
    assert_eq!(lines(&desk.event(broken())), said);
    desk.configured(1);
    assert_eq!(lines(&desk.event(broken())), said);
}

#[test]
fn a_record_overwritten_with_garbage_is_withdrawn() {
    let mut desk = Desk::new();
    desk.configured(1);
    let actions = desk.event(Event::Invalid {
        key: format!("/servers/{}", uuid(1)),
        reason: "EOF".into(),
    });
    assert_eq!(withdrawals(&actions), [uuid(1)]);
    assert!(desk.published().is_empty() && desk.registry.endpoint(uuid(1)).is_none());
}
