//! Discovery: maintains a client's directory of reachable instances.

use crate::io::{
    etcd::{Change, Etcd, KeyValue, Target},
    timer,
};
use crate::sync::lock;
use futures::channel::oneshot;
use palm_proto::{directory::Update, types::instance::Instance};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long beyond the TTL the servers may take to be published again in a new history of etcd.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(10);

/// A store of the reachable instances.
pub(crate) trait KeepsDirectory {
    /// Returns the names and uuids of all known instances.
    fn known(&self) -> HashSet<(String, Uuid)>;

    /// Applies changes.
    fn update(&self, updates: Vec<Update>);
}

/// How a client follows what is published.
pub(crate) struct Discovery {
    folder: String,
    /// That of the servers' leases.
    ttl: Duration,
    /// Told of the first list.
    listed: Mutex<Option<oneshot::Sender<()>>>,
    /// Why there is no list, as far as is known.
    last_error: Mutex<String>,
}

impl Discovery {
    /// Follows what is published in this folder of etcd, by servers with leases of this TTL. The
    /// receiver is notified when the first listing is complete.
    pub(crate) fn new(folder: String, ttl: Duration) -> (Arc<Self>, oneshot::Receiver<()>) {
        let (tx, listed) = oneshot::channel();
        let discovery = Self {
            folder,
            ttl,
            listed: Mutex::new(Some(tx)),
            last_error: Mutex::default(),
        };
        (Arc::new(discovery), listed)
    }

    /// Why there was no list, as far as is known; else nothing.
    pub(crate) fn last_error(&self) -> String {
        lock(&self.last_error).clone()
    }

    /// Follows what is published, for as long as there is a client.
    pub(crate) async fn run(self: Arc<Self>, client: Weak<impl KeepsDirectory>, etcd: Etcd) {
        let mut watch = etcd.watch(Target::Prefix(self.folder.clone()));
        // After an end of this task in the middle of it, what was known may have gone meanwhile.
        let Some(earlier) = client.upgrade().map(|client| client.known()) else {
            return;
        };
        let mut known = Known {
            missing: earlier,
            ..Known::default()
        };
        loop {
            let change = match known.until {
                Some(deadline) => timer::timeout_at(deadline, watch.next()).await.ok(),
                None => Some(watch.next().await),
            };
            let Some(client) = client.upgrade() else {
                return;
            };
            match change {
                Some(change) => {
                    if let Change::Stale { reason } = &change {
                        log::debug!("the list of servers may be out of date: {reason}");
                        lock(&self.last_error).clone_from(reason);
                    }
                    known.apply(change, &self.folder, self.ttl);
                }
                None => known.give_up_missing(),
            }
            // An incomplete list would hide instances.
            if known.synced {
                client.update(std::mem::take(&mut known.updates));
                let listed = lock(&self.listed).take();
                if let Some(tx) = listed {
                    let _ = tx.send(());
                }
            }
        }
    }
}

/// The state of discovery.
#[derive(Default)]
struct Known {
    synced: bool,
    /// Changes that have not been applied to the store.
    updates: Vec<Update>,
    /// Instances that were reachable before and have not been listed. In a new history of etcd they
    /// may still be alive: they stay until they have had the time to register again.
    missing: HashSet<(String, Uuid)>,
    /// Until when these stay.
    until: Option<Instant>,
}

impl Known {
    fn apply(&mut self, change: Change, folder: &str, ttl: Duration) {
        match change {
            Change::Put { current, .. } => self.put(&current, folder),
            Change::Deleted { previous, .. } => {
                if let Some(gone) = instance_in(&previous, folder) {
                    self.deleted(gone.server, gone.uuid);
                }
            }
            Change::Listed { .. } => {
                self.synced = true;
                if self.until.is_none() {
                    self.give_up_missing();
                }
            }
            Change::Stale { .. } => self.synced = false,
            Change::NewHistory => {
                self.until = Some(Instant::now() + ttl + PUBLISHED_WITHIN);
                self.synced = false;
            }
        }
    }

    fn put(&mut self, current: &KeyValue, folder: &str) {
        match instance_in(current, folder) {
            Some(instance) => {
                self.missing
                    .remove(&(instance.server.clone(), instance.uuid));
                self.updates.push(Update::Put(instance));
            }
            None => log::debug!("{} is not a valid instance, and is ignored", current.key),
        }
    }

    fn deleted(&mut self, server: String, uuid: Uuid) {
        // Only a listing shows which keys a new history lacks.
        if self.until.is_some() && !self.synced {
            self.missing.insert((server, uuid));
        } else {
            self.missing.remove(&(server.clone(), uuid));
            self.updates.push(Update::Removed(server, uuid));
        }
    }

    fn give_up_missing(&mut self) {
        self.until = None;
        self.updates.extend(
            self.missing
                .drain()
                .map(|(server, uuid)| Update::Removed(server, uuid)),
        );
    }
}

fn instance_in(kv: &KeyValue, folder: &str) -> Option<Instance> {
    Instance::from_entry(kv.key.strip_prefix(folder)?, &kv.value)
}
