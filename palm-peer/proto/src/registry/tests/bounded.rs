//! The registry's state is bounded by the number of servers, and removed with them.

use super::*;

/// How many servers exist at a time: more than may be probed at a time.
const WAVE: u128 = 500;
const WAVES: u128 = 200;

/// Returns the number of all entries of the registry, except those of [`LogThrottle`].
fn size(registry: &Registry) -> usize {
    let of_servers = registry.servers.len()
        + registry.schedule.len()
        + registry.found.len()
        + registry.broken.len();
    let of_writes = registry.writing.len() + registry.removed.len() + registry.unattributed.len();
    of_servers
        + of_writes
        + registry.unvouched.len()
        + registry.evidence.len()
        + registry.unreached.len()
}

/// Invariant: without writes in progress, there is no state for unknown servers.
pub(super) fn assert_nothing_is_left(registry: &Registry, seed: u64) {
    let Registry {
        servers,
        writing,
        removed,
        unattributed,
        unvouched,
        found,
        ..
    } = registry;
    assert_eq!(
        (writing.len(), unattributed.len(), found.len()),
        (0, 0, 0),
        "seed {seed}"
    );
    let left = removed
        .keys()
        .chain(unvouched)
        .find(|uuid| !servers.contains_key(uuid));
    assert_eq!(left, None, "seed {seed}");
}

fn member(id: u128) -> Record {
    Record {
        uuid: uuid(id),
        leader: Some(uuid(7)),
        ..record(1, 0)
    }
}

fn key(id: u128) -> String {
    format!("/servers/{}", uuid(id))
}

impl Desk {
    /// All of these join; every tenth leaves while its probe is queued; the rest answer
    /// and are configured.
    fn join(&mut self, ids: impl Iterator<Item = u128>) {
        let mut actions: Vec<Action> = Vec::new();
        for id in ids {
            actions.extend(self.stands(member(id)));
            if id.is_multiple_of(10) {
                actions.extend(self.deleted(id, Some((RemovedBy::Itself, "")), false, true));
            }
        }
        while let Some(action) = actions.pop() {
            match action {
                Action::Probe { uuid, token, .. } => {
                    actions.extend(self.answer(uuid.as_u128(), token));
                }
                Action::Configure { record, .. } => {
                    actions.extend(self.written(record.uuid.as_u128(), true));
                    actions.extend(self.stands(record));
                }
                _ => {}
            }
        }
    }

    /// The process of a server is gone, and witnesses agree. Returns what the leader does, which
    /// is to remove it.
    fn die(&mut self, id: u128) {
        let mut actions = self.gone(id);
        while let Some(action) = actions.pop() {
            if let Action::Ask {
                uuid,
                token,
                witnesses,
                ..
            } = action
            {
                for (witness, _) in witnesses {
                    let testimony = Testimony::NotReached;
                    actions.extend(self.event(Event::Testified {
                        uuid,
                        token,
                        witness,
                        testimony,
                    }));
                }
            }
        }
        assert!(
            self.registry.writing.contains_key(&uuid(id)),
            "{id} is being removed"
        );
    }

    /// A server ends in one of several ways, with events out of order.
    fn end(&mut self, id: u128) {
        match id % 10 {
            1 => drop(self.deleted(id, Some((RemovedBy::Itself, "")), false, true)),
            2 => drop(self.deleted(id, None, false, false)),
            3 => {
                self.die(id);
                self.written(id, true);
                self.deleted(id, Some((RemovedBy::Registry, "x")), false, true);
            }
            4 => {
                self.die(id);
                self.deleted(id, Some((RemovedBy::Registry, "x")), false, true);
                self.written(id, true);
            }
            // An invalid record replaces it before its end is reported, or before
            // the response comes.
            way @ 5..8 => {
                self.die(id);
                if way == 5 {
                    self.written(id, true);
                }
                self.event(Event::Invalid {
                    key: key(id),
                    reason: "EOF".into(),
                });
                if way == 6 {
                    self.written(id, true);
                }
                self.deleted(id, Some((RemovedBy::Registry, "x")), false, true);
                if way == 7 {
                    self.written(id, false);
                }
                self.event(Event::InvalidRemoved { key: key(id) });
            }
            // It registers again after its removal, and the watch reports only that.
            8 => {
                self.die(id);
                self.written(id, true);
                self.stands(Record {
                    when: record(1, 1).when,
                    ..member(id)
                });
                self.deleted(id, None, false, false);
            }
            // It stops answering.
            9 => {
                self.event(Event::Invalid {
                    key: key(id),
                    reason: "EOF".into(),
                });
                self.stands(member(id));
                self.deleted(id, None, false, false);
            }
            _ => {}
        }
    }
}

#[test]
fn a_hundred_thousand_servers_leave_no_state() {
    let mut desk = Desk::new();
    for wave in 0..WAVES {
        let ids = || (wave * WAVE..(wave + 1) * WAVE).map(|id| 1_000_000 + id);
        desk.join(ids());
        let size_then = size(&desk.registry);
        assert!(
            size_then <= 3 * WAVE as usize,
            "{size_then} entries for {WAVE} servers"
        );
        ids().for_each(|id| desk.end(id));
        desk.pass(Duration::from_secs(20));
        assert_eq!(size(&desk.registry), 0, "{:?}", desk.registry);
    }
}

/// Anyone with write access to etcd may put anything there: handling one invalid record takes no
/// longer among many.
#[test]
fn a_hundred_thousand_invalid_records_leave_no_state() {
    let mut desk = Desk::new();
    let ids = || (0..100_000).map(|id| 1_000_000 + id);
    let broken = |id| Event::Invalid {
        key: key(id),
        reason: "EOF".into(),
    };
    for id in ids() {
        desk.event(broken(id));
        desk.event(Event::Invalid {
            key: format!("/servers/{id}"),
            reason: "EOF".into(),
        });
    }
    assert_eq!(size(&desk.registry), 200_000);
    for id in ids() {
        if id.is_multiple_of(2) {
            desk.stands(member(id));
            desk.deleted(id, None, false, false);
        } else {
            desk.event(Event::InvalidRemoved { key: key(id) });
        }
        desk.event(Event::InvalidRemoved {
            key: format!("/servers/{id}"),
        });
    }
    assert_eq!(size(&desk.registry), 0);
}

/// A leader that is paused repeatedly probes all servers again each time.
#[test]
fn pauses_of_the_leader_queue_each_server_once() {
    let mut desk = Desk::new();
    for id in 0..WAVE {
        desk.stands(member(1_000_000 + id));
    }
    for _ in 0..1_000 {
        desk.now += Duration::from_secs(3600);
        desk.registry.tick(desk.now);
        let size_then = size(&desk.registry);
        assert!(
            size_then <= 3 * WAVE as usize,
            "{size_then} entries for {WAVE} servers"
        );
    }
}
