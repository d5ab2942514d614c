//! The operations of administration: listing and removing servers, and resetting the mesh.

use crate::leader::tombstones::{Removal, Removed};
use crate::{
    error::{Error, ErrorKind},
    io::wall_clock,
    io::{
        etcd::{
            Change, Etcd, EtcdError, EtcdErrorKind, KeyValue, Lease, Operation, Target,
            Transaction, Watch,
        },
        timer,
    },
};
use futures::future::{Either, select};
use palm_proto::{
    config::ValidConfig,
    election::Candidate,
    members::{ServerEntry, server_entries},
    types::{
        ids::Revision,
        keys::Keys,
        message::MAX_TIMEOUT,
        tombstone::{REMOVED_BY_ADMIN, RemovedBy},
    },
};
use std::{
    collections::BTreeMap,
    pin::pin,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a watch collects changes before it reports them: a server that joins causes several.
const SETTLE: Duration = Duration::from_millis(50);

/// How many candidates are read to find the leader: there is one candidate per server.
const OLDEST_CANDIDATES: usize = 4;

/// What to do when etcd is out of space.
const MAKE_SPACE: &str = "compact, defragment and disarm the alarm, as docs/operations.md says";

/// The keys of the mesh in etcd, for administration.
#[derive(Clone)]
pub(super) struct MeshAdmin {
    etcd: Etcd,
    keys: Keys,
    endpoints: String,
    time: Duration,
}

impl MeshAdmin {
    /// Creates it without a request.
    pub(super) fn new(etcd: Etcd, config: &ValidConfig) -> Self {
        Self {
            etcd,
            keys: config.keys(),
            endpoints: config.etcd.join(", "),
            time: config.join_timeout,
        }
    }

    /// Checks that etcd answers, and accepts our credentials.
    pub(super) async fn check(&self) -> Result<(), Error> {
        self.bounded(self.etcd.get(&self.keys.reset()))
            .await
            .map(drop)
    }

    /// Returns everything under `/servers/`, and which server leads, at one revision.
    pub(super) async fn servers(&self) -> Result<Vec<ServerEntry>, Error> {
        let (servers, election) = self
            .bounded(self.read(Operation::get_prefix(&self.keys.servers())))
            .await?;
        Ok(server_entries(&self.keys, &servers, &election))
    }

    /// Deletes one record and puts a tombstone, so that its server stays out.
    pub(super) async fn remove(&self, name: &str) -> Result<ServerEntry, Error> {
        let removed = self.bounded(self.try_to_remove(name)).await?;
        match removed {
            None => Err(Error::new(
                ErrorKind::NotFound,
                format!("no server {name} is registered"),
            )),
            Some((entry, true)) => Ok(entry),
            Some((_, false)) => Err(Error::new(
                ErrorKind::NotRecorded,
                format!(
                    "the record of {name} is deleted, but etcd is out of space and refused the note that keeps the \
                     server out: it will register again as soon as etcd has space; {MAKE_SPACE}, and then remove it again"
                ),
            )),
        }
    }

    /// Returns the entry, if there was one, and whether its server stays out.
    async fn try_to_remove(&self, name: &str) -> Result<Option<(ServerEntry, bool)>, EtcdError> {
        let key = format!("{}{name}", self.keys.servers());
        let (found, election) = self.read(Operation::get(&key)).await?;
        let Some(entry) = server_entries(&self.keys, &found, &election).pop() else {
            return Ok(None);
        };
        // Only an entry with a uuid can belong to a server that looks for a tombstone.
        let uuid = name
            .parse::<Uuid>()
            .ok()
            .filter(|uuid| uuid.to_string() == name);
        let Some(uuid) = uuid else {
            let deletion = Transaction::new()
                .present(&key)
                .then(Operation::delete(&key));
            self.etcd.transact(deletion).await?;
            return Ok(Some((entry, true)));
        };
        let server = entry
            .record
            .as_ref()
            .ok()
            .map(|record| record.server.as_str());
        let removal = Removal::new(&self.keys, uuid, server, RemovedBy::Admin, REMOVED_BY_ADMIN);
        Ok(
            match removal
                .carry_out(&self.etcd, Transaction::new().present(&key))
                .await?
            {
                Removed::Not => None,
                Removed::WithTombstone => Some((entry, true)),
                Removed::WithoutTombstone => Some((entry, false)),
            },
        )
    }

    /// Clears everything in one transaction, and puts a mark that makes the servers re-register.
    pub(super) async fn reset(&self) -> Result<ResetTracker, Error> {
        let keys = &self.keys;
        let mark = serde_json::json!({ "when": wall_clock::timestamp() }).to_string();
        let clearing = [
            keys.servers(),
            keys.election(),
            keys.pipelines(),
            keys.departures(),
        ]
        .iter()
        .fold(
            Transaction::new()
                .then(Operation::get_prefix(&keys.servers()))
                .then(Operation::get_prefix(&keys.election())),
            |transaction, folder| transaction.then(Operation::delete_prefix(folder)),
        );
        let marking = clearing
            .clone()
            .then(Operation::put(&keys.reset(), mark, Lease::None));
        let cleared = self.bounded(async {
            match self.etcd.transact(marking).await {
                // etcd still accepts deletions.
                Err(error) if error.kind() == EtcdErrorKind::NoSpace => {
                    Ok((self.etcd.transact(clearing).await?, false))
                }
                outcome => outcome.map(|outcome| (outcome, true)),
            }
        });
        let (outcome, marked) = cleared.await?;
        let (servers, election) = two(outcome.reads);
        let removed = server_entries(keys, &servers, &election);
        let missing = removed.iter().filter(|entry| entry.record.is_ok());
        Ok(ResetTracker {
            missing: missing
                .map(|entry| (entry.key.clone(), entry.clone()))
                .collect(),
            removed,
            marked,
            at: Some(outcome.revision),
            watch: self.etcd.watch(Target::Prefix(keys.servers())),
        })
    }

    /// Watches what [`servers`](Self::servers) returns.
    pub(super) fn watch(&self) -> MembersWatch {
        MembersWatch {
            keys: self.keys.clone(),
            servers: WatchedPrefix::new(&self.etcd, self.keys.servers()),
            election: WatchedPrefix::new(&self.etcd, self.keys.election()),
            shown: None,
            stale_reported: false,
        }
    }

    /// Runs a read together with one of the oldest candidates, at one revision; the first valid
    /// candidate leads. Keys that no peer put must not hide it.
    async fn read(&self, what: Operation) -> Result<(Vec<KeyValue>, Vec<KeyValue>), EtcdError> {
        let mut max = OLDEST_CANDIDATES;
        loop {
            let oldest = Operation::get_oldest(&self.keys.election(), max);
            let (found, oldest) = two(self
                .etcd
                .transact(Transaction::new().then(what.clone()).then(oldest))
                .await?
                .reads);
            if oldest.len() < max
                || oldest
                    .iter()
                    .any(|kv| Candidate::read(&self.keys, kv).is_some())
            {
                return Ok((found, oldest));
            }
            max = max.saturating_mul(16);
        }
    }

    /// Bounds a request by `join_timeout`.
    async fn bounded<T>(
        &self,
        request: impl Future<Output = Result<T, EtcdError>>,
    ) -> Result<T, Error> {
        let answered = timer::timeout(self.time, request).await.map_err(|_| {
            let message = format!(
                "etcd cannot be reached: no answer within {:?} at {}",
                self.time, self.endpoints
            );
            Error::new(ErrorKind::EtcdUnreachable, message)
        })?;
        Ok(answered?)
    }
}

/// The results of the two reads of a transaction.
fn two(reads: Vec<Vec<KeyValue>>) -> (Vec<KeyValue>, Vec<KeyValue>) {
    let mut reads = reads.into_iter();
    (
        reads.next().unwrap_or_default(),
        reads.next().unwrap_or_default(),
    )
}

/// Tracks which servers re-register after a reset.
pub(super) struct ResetTracker {
    /// The entries before the reset.
    pub removed: Vec<ServerEntry>,
    /// The servers that have not re-registered, by key.
    pub missing: BTreeMap<String, ServerEntry>,
    /// Whether the mark was put; if not, etcd is out of space.
    pub marked: bool,
    /// The revision of the reset; `None` when etcd's history has gone back since.
    at: Option<Revision>,
    watch: Watch,
}

impl ResetTracker {
    /// Waits until no server is missing, or none has re-registered for `quiet`, or the
    /// limit is reached.
    pub(super) async fn wait(&mut self, quiet: Duration, limit: Duration) {
        let quiet = quiet.min(MAX_TIMEOUT);
        let limit = limit.min(MAX_TIMEOUT);
        let began = Instant::now();
        let mut deadline = began + quiet.min(limit);
        while !self.missing.is_empty() {
            let Ok(change) = timer::timeout_at(deadline, self.watch.next()).await else {
                return;
            };
            match change {
                // A key created after the reset is a new registration.
                Change::Put { current, .. } if self.at.is_some_and(|at| current.created > at) => {
                    let is_back = self.missing.remove(&current.key).is_some();
                    deadline = if is_back {
                        (Instant::now() + quiet).min(began + limit)
                    } else {
                        deadline
                    };
                }
                // The reset itself is undone: the keys may be from before it.
                Change::NewHistory => self.at = None,
                _ => {}
            }
        }
    }
}

/// A watched key prefix.
struct WatchedPrefix {
    watch: Watch,
    synced: bool,
    last_error: Option<String>,
}

impl WatchedPrefix {
    fn new(etcd: &Etcd, folder: String) -> Self {
        Self {
            watch: etcd.watch(Target::Prefix(folder)),
            synced: false,
            last_error: None,
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Listed { .. } => self.synced = true,
            Change::Stale { reason } => {
                self.synced = false;
                self.last_error = Some(reason);
            }
            Change::Put { .. } | Change::Deleted { .. } | Change::NewHistory => {}
        }
    }
}

/// A watch of the servers and of the leader.
pub(super) struct MembersWatch {
    keys: Keys,
    servers: WatchedPrefix,
    election: WatchedPrefix,
    /// The entries reported last; `None` before that, and while they may be stale.
    shown: Option<Vec<ServerEntry>>,
    /// Whether it has been reported that the entries may be stale.
    stale_reported: bool,
}

impl MembersWatch {
    /// Returns all entries, first now and then whenever they change; an error when they may be
    /// stale from now on.
    pub(super) async fn next(&mut self) -> Result<Vec<ServerEntry>, Error> {
        loop {
            self.change().await;
            let settled = Instant::now() + SETTLE;
            while timer::timeout_at(settled, self.change()).await.is_ok() {}
            if self.servers.synced && self.election.synced {
                let entries = server_entries(
                    &self.keys,
                    self.servers.watch.items().values(),
                    self.election.watch.items().values(),
                );
                self.servers.last_error = None;
                self.election.last_error = None;
                self.stale_reported = false;
                if self.shown.as_ref() != Some(&entries) {
                    self.shown = Some(entries.clone());
                    return Ok(entries);
                }
            } else if !self.stale_reported
                && let Some(reason) = self
                    .servers
                    .last_error
                    .take()
                    .or_else(|| self.election.last_error.take())
            {
                self.stale_reported = true;
                self.shown = None;
                return Err(Error::new(ErrorKind::EtcdUnreachable, reason));
            }
        }
    }

    /// Waits for one change and applies it. Cancel safe.
    async fn change(&mut self) {
        let (of_servers, change) = {
            let (servers, election) = (
                pin!(self.servers.watch.next()),
                pin!(self.election.watch.next()),
            );
            match select(servers, election).await {
                Either::Left((change, _)) => (true, change),
                Either::Right((change, _)) => (false, change),
            }
        };
        let part = if of_servers {
            &mut self.servers
        } else {
            &mut self.election
        };
        part.apply(change);
    }
}
