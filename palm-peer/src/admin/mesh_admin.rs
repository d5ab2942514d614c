//! What a person does to the mesh: looks at it, takes servers out, clears it.

use crate::leader::tombstones::{Removal, Removed};
use crate::{
    error::{Error, ErrorKind},
    io::wall_clock,
    io::{
        etcd::{Change, Etcd, EtcdError, EtcdErrorKind, KeyValue, Lease, Operation, Target, Transaction, Watch},
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
        tombstone::{REMOVED_BY_ADMIN, RemovedBy},
    },
};
use std::{
    collections::BTreeMap,
    pin::pin,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a view of the mesh waits for more changes before it tells of the first: a server that joins makes several.
const SETTLE: Duration = Duration::from_millis(50);

/// How many candidates are asked for to find the one that leads: there is one for each server.
const OLDEST_CANDIDATES: usize = 4;

/// What to do when etcd is out of space.
const MAKE_SPACE: &str = "compact, defragment and disarm the alarm, as docs/operations.md says";

/// The mesh's part of etcd, for a person.
#[derive(Clone)]
pub(super) struct MeshAdmin {
    etcd: Etcd,
    keys: Keys,
    endpoints: String,
    time: Duration,
}

impl MeshAdmin {
    /// Nothing is asked yet.
    pub(super) fn new(etcd: Etcd, config: &ValidConfig) -> Self {
        Self { etcd, keys: config.keys(), endpoints: config.etcd.join(", "), time: config.join_timeout }
    }

    /// Makes sure that etcd answers, and answers us.
    pub(super) async fn check(&self) -> Result<(), Error> {
        self.bounded(self.etcd.get(&self.keys.reset())).await.map(drop)
    }

    /// All that is stored under `/servers/`, and who leads, at one moment.
    pub(super) async fn servers(&self) -> Result<Vec<ServerEntry>, Error> {
        let (servers, election) = self.bounded(self.read(Operation::get_prefix(&self.keys.servers()))).await?;
        Ok(server_entries(&self.keys, &servers, &election))
    }

    /// Takes one record out, with a note, so that its server stays out.
    pub(super) async fn remove(&self, name: &str) -> Result<ServerEntry, Error> {
        let removed = self.bounded(self.try_to_remove(name)).await?;
        match removed {
            None => Err(Error::new(ErrorKind::NotFound, format!("no server {name} is registered"))),
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
        let Some(entry) = server_entries(&self.keys, &found, &election).pop() else { return Ok(None) };
        // Only what has a uuid can be a server that asks why it is gone.
        let uuid = name.parse::<Uuid>().ok().filter(|uuid| uuid.to_string() == name);
        let Some(uuid) = uuid else {
            let deletion = Transaction::new().present(&key).then(Operation::delete(&key));
            self.etcd.transact(deletion).await?;
            return Ok(Some((entry, true)));
        };
        let server = entry.record.as_ref().ok().map(|record| record.server.as_str());
        let removal = Removal::new(&self.keys, uuid, server, RemovedBy::Admin, REMOVED_BY_ADMIN);
        Ok(match removal.carry_out(&self.etcd, Transaction::new().present(&key)).await? {
            Removed::Not => None,
            Removed::WithTombstone => Some((entry, true)),
            Removed::WithoutTombstone => Some((entry, false)),
        })
    }

    /// Clears everything in one transaction, and leaves a mark that tells the servers to come back.
    pub(super) async fn reset(&self) -> Result<ResetTracker, Error> {
        let keys = &self.keys;
        let mark = serde_json::json!({ "when": wall_clock::timestamp() }).to_string();
        let clearing = [keys.servers(), keys.election(), keys.pipelines(), keys.departures()].iter().fold(
            Transaction::new()
                .then(Operation::get_prefix(&keys.servers()))
                .then(Operation::get_prefix(&keys.election())),
            |transaction, folder| transaction.then(Operation::delete_prefix(folder)),
        );
        let marking = clearing.clone().then(Operation::put(&keys.reset(), mark, Lease::None));
        let cleared = self.bounded(async {
            match self.etcd.transact(marking).await {
                // It takes deletions all the same.
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
            missing: missing.map(|entry| (entry.key.clone(), entry.clone())).collect(),
            removed,
            marked,
            at: Some(outcome.revision),
            watch: self.etcd.watch(Target::Prefix(keys.servers())),
        })
    }

    /// Follows what [`servers`](Self::servers) tells.
    pub(super) fn watch(&self) -> MembersWatch {
        MembersWatch {
            keys: self.keys.clone(),
            servers: WatchedPrefix::new(&self.etcd, self.keys.servers()),
            election: WatchedPrefix::new(&self.etcd, self.keys.election()),
            shown: None,
            stale_reported: false,
        }
    }

    /// Reads something, and the oldest candidates, of which the first leads, at one moment. Keys that no peer put must not hide it.
    async fn read(&self, what: Operation) -> Result<(Vec<KeyValue>, Vec<KeyValue>), EtcdError> {
        let mut max = OLDEST_CANDIDATES;
        loop {
            let oldest = Operation::get_oldest(&self.keys.election(), max);
            let (found, oldest) =
                two(self.etcd.transact(Transaction::new().then(what.clone()).then(oldest)).await?.reads);
            if oldest.len() < max || oldest.iter().any(|kv| Candidate::read(&self.keys, kv).is_some()) {
                return Ok((found, oldest));
            }
            max = max.saturating_mul(16);
        }
    }

    /// Waits no longer than the options allow.
    async fn bounded<T>(&self, request: impl Future<Output = Result<T, EtcdError>>) -> Result<T, Error> {
        let answered = timer::timeout(self.time, request).await.map_err(|_| {
            let message = format!("etcd cannot be reached: no answer within {:?} at {}", self.time, self.endpoints);
            Error::new(ErrorKind::EtcdUnreachable, message)
        })?;
        Ok(answered?)
    }
}

/// What the two reads of a transaction found.
fn two(reads: Vec<Vec<KeyValue>>) -> (Vec<KeyValue>, Vec<KeyValue>) {
    let mut reads = reads.into_iter();
    (reads.next().unwrap_or_default(), reads.next().unwrap_or_default())
}

/// What follows a reset.
pub(super) struct ResetTracker {
    /// What was stored before.
    pub removed: Vec<ServerEntry>,
    /// By its key, each server that was there and has not come back.
    pub missing: BTreeMap<String, ServerEntry>,
    /// Whether the mark was put; if not, etcd is out of space.
    pub marked: bool,
    /// When the reset was; `None` when etcd's history has gone back since.
    at: Option<Revision>,
    watch: Watch,
}

impl ResetTracker {
    /// Waits until nobody is missing any more, or nobody has come back for as long as `quiet`, or the limit is reached.
    pub(super) async fn wait(&mut self, quiet: Duration, limit: Duration) {
        let began = Instant::now();
        let mut deadline = began + quiet.min(limit);
        while !self.missing.is_empty() {
            let Ok(change) = timer::timeout_at(deadline, self.watch.next()).await else { return };
            match change {
                // A key's identity is when it was created: all that there were are gone.
                Change::Put { current, .. } if self.at.is_some_and(|at| current.created > at) => {
                    let is_back = self.missing.remove(&current.key).is_some();
                    deadline = if is_back { (Instant::now() + quiet).min(began + limit) } else { deadline };
                }
                // The reset itself is undone: what stands there may be of before.
                Change::NewHistory => self.at = None,
                _ => {}
            }
        }
    }
}

/// A folder that is followed.
struct WatchedPrefix {
    watch: Watch,
    synced: bool,
    last_error: Option<String>,
}

impl WatchedPrefix {
    fn new(etcd: &Etcd, folder: String) -> Self {
        Self { watch: etcd.watch(Target::Prefix(folder)), synced: false, last_error: None }
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

/// The servers and who leads, followed.
pub(super) struct MembersWatch {
    keys: Keys,
    servers: WatchedPrefix,
    election: WatchedPrefix,
    /// What was told last; `None` before, and while what was told may be out of date.
    shown: Option<Vec<ServerEntry>>,
    /// That it may be out of date has been told.
    stale_reported: bool,
}

impl MembersWatch {
    /// All entries, once and whenever they change; an error when they may be out of date from now on.
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
                && let Some(reason) = self.servers.last_error.take().or_else(|| self.election.last_error.take())
            {
                self.stale_reported = true;
                self.shown = None;
                return Err(Error::new(ErrorKind::EtcdUnreachable, reason));
            }
        }
    }

    /// Takes one change in. Cancel safe.
    async fn change(&mut self) {
        let (of_servers, change) = {
            let (servers, election) = (pin!(self.servers.watch.next()), pin!(self.election.watch.next()));
            match select(servers, election).await {
                Either::Left((change, _)) => (true, change),
                Either::Right((change, _)) => (false, change),
            }
        };
        let part = if of_servers { &mut self.servers } else { &mut self.election };
        part.apply(change);
    }
}
