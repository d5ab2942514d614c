//! Invalid records under `/servers/`.

use super::{Action, Registry};
use log::Level;
use std::{collections::BTreeMap, time::Instant};
use uuid::Uuid;

/// The length of a uuid in a key.
const UUID_LENGTH: usize = 36;

/// The invalid records and what is wrong with them, by the uuid in the key and by the key: a change
/// costs the same with one and with thousands. Each belongs to an existing key in etcd.
#[derive(Debug, Default)]
pub(super) struct BrokenRecords(BTreeMap<(Option<Uuid>, String), String>);

impl BrokenRecords {
    /// Adds an invalid record. Returns whether it, or what is wrong with it, is new.
    fn insert(&mut self, key: String, reason: String) -> bool {
        let key = (uuid_in(&key), key);
        let new = self.0.get(&key) != Some(&reason);
        self.0.insert(key, reason);
        new
    }

    /// Removes a key that is gone.
    pub(super) fn remove(&mut self, key: String) {
        self.0.remove(&(uuid_in(&key), key));
    }

    /// Removes the keys of a server that has a valid record now.
    pub(super) fn remove_of(&mut self, uuid: Uuid) {
        let next = |broken: &Self| {
            let (key, _) = broken.0.range((Some(uuid), String::new())..).next()?;
            (key.0 == Some(uuid)).then(|| key.clone())
        };
        while let Some(key) = next(self) {
            self.0.remove(&key);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Returns the uuid at the end of a key.
fn uuid_in(key: &str) -> Option<Uuid> {
    let last = key.get(key.len().checked_sub(UUID_LENGTH)?..)?;
    last.parse()
        .ok()
        .filter(|uuid: &Uuid| uuid.to_string() == last)
}

impl Registry {
    pub(super) fn broken(&mut self, key: String, reason: String, now: Instant) {
        // The server's entry is dropped; the removal of the key will be reported as that of
        // an invalid record.
        if let Some(uuid) = uuid_in(&key) {
            let entry = self.forget(uuid).map(|entry| entry.record.server);
            let found = self
                .found
                .remove(&uuid)
                .map(|published| published.instance.server);
            self.removed.remove(&uuid);
            if let Some(server) = entry.or(found) {
                self.actions.push(Action::Withdraw { uuid, server });
            }
        }
        if self.broken.insert(key.clone(), reason.clone()) {
            self.next_token += 1;
            if let Some(suppressed) = self.broken_lines.should_log(self.next_token, now) {
                let text = format!(
                    "{key} is not a valid record of a server, and is ignored: {reason}{suppressed}"
                );
                self.log(Level::Warn, text);
            }
        }
    }
}
