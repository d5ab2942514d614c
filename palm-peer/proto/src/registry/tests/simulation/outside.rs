//! The network, the watch and etcd, which carry out the leader's actions, at once or later.

use super::*;

impl World {
    /// Delivers outstanding events of the watch, the network and etcd, all or some of them.
    pub(super) fn deliver(&mut self, calm: bool) {
        for (id, token, at) in std::mem::take(&mut self.asked) {
            let given_up = self.now >= at + 2 * TIMEOUT;
            match self.state(id) {
                _ if !calm && self.random.u8(0..3) == 0 => self.asked.push((id, token, at)),
                State::Alive => self.answer(id, token, at),
                State::Dead | State::Out => self.refuse(id, token, "connection refused"),
                State::Frozen if given_up => self.refuse(id, token, "no answer"),
                State::Frozen => self.asked.push((id, token, at)),
            }
        }
        for write in std::mem::take(&mut self.writes) {
            if !calm && self.random.bool() {
                self.writes.push(write);
            } else {
                self.write(write, calm);
            }
        }
        for (uuid, token, witness) in std::mem::take(&mut self.questions) {
            if !calm && self.random.bool() {
                self.questions.push((uuid, token, witness));
                continue;
            }
            let testimony = match (self.state(witness), self.state(uuid)) {
                (State::Alive, State::Alive) => Testimony::Reached,
                (State::Alive, _) => Testimony::NotReached,
                _ => Testimony::None,
            };
            self.notify(Event::Testified {
                uuid,
                token,
                witness,
                testimony,
            });
        }
        for (record, modified) in std::mem::take(&mut self.renaming) {
            let id = record.uuid;
            let fits = self
                .etcd
                .get(&id)
                .is_some_and(|held| held.modified == modified);
            let stands = fits.then(|| self.put(id, Some(record)));
            let lost = !calm && self.random.u8(0..4) == 0;
            self.notify(Event::WriteDone {
                uuid: id,
                stands: stands.filter(|_| !lost),
            });
        }
        for withdrawal in std::mem::take(&mut self.withdrawals) {
            match withdrawal {
                _ if !calm && self.random.bool() => self.withdrawals.push(withdrawal),
                Action::Withdraw { uuid, .. }
                    if self
                        .etcd
                        .get(&uuid)
                        .is_none_or(|held| held.record.is_none()) =>
                {
                    self.published.remove(&uuid);
                }
                _ => {}
            }
        }
        self.renaming = self.registry.take_unvouched(2);
        while (calm || self.random.bool()) && !self.watch.is_empty() {
            let event = self.watch.pop_front().expect("not empty");
            self.notify(event);
        }
    }

    fn answer(&mut self, id: Uuid, token: Token, at: Instant) {
        if self.now < at + TIMEOUT
            && self
                .unanswered
                .get(&id)
                .is_some_and(|all| all.iter().any(|s| s.token == token))
        {
            self.unanswered.remove(&id);
        }
        self.notify(Event::ProbeOk {
            uuid: id,
            token,
            digest: String::new(),
        });
    }

    fn refuse(&mut self, id: Uuid, token: Token, reason: &str) {
        let open = self.unanswered.get_mut(&id).into_iter().flatten();
        open.filter(|sent| sent.token == token)
            .for_each(|sent| sent.refused = true);
        self.notify(Event::ProbeFailed {
            uuid: id,
            token,
            reason: reason.into(),
        });
    }

    /// etcd does a write that still meets what it replaces; the answer, or the
    /// attempt, may be lost.
    fn write(&mut self, write: Action, calm: bool) {
        let id = written(&write);
        let fits = |modified| {
            self.etcd
                .get(&id)
                .is_some_and(|held| held.modified == modified)
        };
        let lost = !calm && self.random.u8(0..4) == 0;
        let stands = match write {
            _ if lost && self.random.bool() => None,
            Action::Configure {
                record,
                modified,
                lease,
            } if fits(modified) => {
                let instance = Instance::of(&record);
                if record.is_ready() {
                    self.published.insert(id, Published { instance, lease });
                } else {
                    self.published.remove(&id);
                }
                Some(self.put(id, Some(record)))
            }
            Action::Remove(Removal {
                modified, reason, ..
            }) if fits(modified) => {
                self.delete(id, Some((RemovedBy::Registry, reason)));
                Some(Revision(self.revision))
            }
            _ => None,
        };
        // The watch may be quicker than the answer.
        while !calm && self.random.bool() && !self.watch.is_empty() {
            let event = self.watch.pop_front().expect("not empty");
            self.notify(event);
        }
        self.notify(Event::WriteDone {
            uuid: id,
            stands: stands.filter(|_| !lost),
        });
    }
}
