//! The peer's own keys: puts them, determines why they are gone, and removes them.

use crate::{
    io::etcd::{Etcd, EtcdError, KeyValue, Lease, Operation, Transaction},
    io::wall_clock,
    leader::tombstones::{self, OWN_LEASE, Removal, put_tombstone},
};
use palm_proto::{
    config::ValidConfig,
    removal::{LastWritten, RemovalCause, RemovalFacts, classify},
    types::{
        ids::{LeaseId, Revision},
        keys::Keys,
        record::Record,
        tombstone::{REMOVED_BY_ADMIN, RemovedBy},
    },
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Why a peer could not register.
#[derive(Debug)]
pub(crate) enum RegisterError {
    /// An administrator removed it meanwhile.
    Evicted,
    /// The request to etcd failed.
    Etcd(EtcdError),
}

impl From<EtcdError> for RegisterError {
    fn from(error: EtcdError) -> Self {
        Self::Etcd(error)
    }
}

/// What a peer needs to write its own keys.
#[derive(Clone)]
pub(crate) struct Registrar {
    /// Where.
    pub(crate) etcd: Etcd,
    /// Under which keys.
    pub(crate) keys: Keys,
    /// What, except whether it is ready.
    pub(crate) record: Record,
    /// Whether the program wants the server to be called.
    pub(crate) ready: Arc<AtomicBool>,
}

impl Registrar {
    /// Creates the registrar of a server.
    pub(crate) fn new(etcd: Etcd, config: &ValidConfig, record: Record) -> Self {
        Self {
            etcd,
            keys: config.keys(),
            ready: Arc::new(AtomicBool::new(record.is_ready())),
            record,
        }
    }

    /// Returns whether the program wants the server to be called.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Puts the record on `lease`, not configured yet, and deletes an old tombstone, unless an
    /// administrator removed the server since the record was last written, as far as is `known`.
    pub(crate) async fn register(
        &self,
        lease: LeaseId,
        known: Option<LastWritten>,
    ) -> Result<LastWritten, RegisterError> {
        let uuid = self.record.uuid;
        let (server, departed) = (self.keys.server(uuid), self.keys.departed(uuid));
        let registered = wall_clock::timestamp();
        let mut record = self.record.clone();
        record.when = registered;
        // If it changes meanwhile, the watch of the record shows the difference.
        record.set_ready(self.is_ready());
        let json = record.to_json();
        loop {
            let epoch = self.etcd.epoch();
            let note = self.etcd.get(&departed).await?;
            if epoch != self.etcd.epoch() {
                continue;
            }
            if let (Some(note), Some(known)) = (&note, known)
                && is_eviction(note, known, epoch)
            {
                return Err(RegisterError::Evicted);
            }
            // No eviction may happen in between.
            let guarded = match &note {
                Some(note) => Transaction::new().modified(&departed, note.modified),
                None => Transaction::new().absent(&departed),
            };
            let outcome = self
                .etcd
                .transact(
                    guarded
                        .then(Operation::put(&server, json.as_str(), Lease::Attach(lease)))
                        .then(self.withdrawal())
                        .then(Operation::delete(&departed))
                        .or_else(Operation::get(&server)),
                )
                .await?;
            if epoch != self.etcd.epoch() {
                continue;
            }
            let written = |revision| LastWritten {
                revision,
                epoch,
                registered,
            };
            if outcome.succeeded {
                return Ok(written(outcome.revision));
            }
            // The response to a successful attempt may have been lost.
            let stands = outcome.reads.into_iter().flatten().next();
            if let Some(own) =
                stands.filter(|kv| kv.lease == Some(lease) && kv.value == json.as_bytes())
            {
                return Ok(written(own.modified));
            }
        }
    }

    /// Writes into the record, as the leader has left it, whether the server is ready. If it is not,
    /// the same transaction deletes the published key, so that clients stop calling it at once. If
    /// it is, the record is not configured, so that the leader checks and publishes the server as
    /// it does a new one: a record that is configured and ready always comes with its published key.
    pub(crate) async fn put_readiness(&self) -> Result<(), EtcdError> {
        let uuid = self.record.uuid;
        let key = self.keys.server(uuid);
        loop {
            // Without a valid record, the next registration says it.
            let Some(stored) = self.etcd.get(&key).await? else {
                return Ok(());
            };
            let Ok(mut record) = Record::from_entry(&uuid.to_string(), &stored.value) else {
                return Ok(());
            };
            let ready = self.is_ready();
            if record.is_ready() == ready {
                return Ok(());
            }
            record.set_ready(ready);
            if ready {
                (record.configured, record.leader) = (false, None);
            }
            let put = Operation::put(&key, record.to_json(), Lease::Keep);
            let unchanged = Transaction::new().modified(&key, stored.modified).then(put);
            let transaction = if ready {
                unchanged
            } else {
                unchanged.then(self.withdrawal())
            };
            if self.etcd.transact(transaction).await?.succeeded {
                return Ok(());
            }
        }
    }

    /// Determines why the record, last seen at `written` on `lease`, is gone; `deleted` is the
    /// revision, if a live watch reported it.
    pub(crate) async fn verdict(
        &self,
        written: LastWritten,
        deleted: Option<Revision>,
        lease: LeaseId,
    ) -> Result<RemovalCause, EtcdError> {
        let (departed, reset) = (self.keys.departed(self.record.uuid), self.keys.reset());
        let reading = Transaction::new()
            .then(Operation::get(&departed))
            .then(Operation::get(&reset));
        let mut reads = self
            .etcd
            .transact(reading)
            .await?
            .reads
            .into_iter()
            .map(|found| found.into_iter().next());
        let (departed, reset) = (reads.next().flatten(), reads.next().flatten());
        let lease_alive = self.etcd.lease_ttl(lease).await?.is_some();
        let evidence = RemovalFacts {
            written,
            deleted,
            epoch: self.etcd.epoch(),
            departure: departed.as_ref().and_then(tombstones::read),
            reset: reset.as_ref().map(|kv| kv.modified),
            lease_alive,
        };
        match (classify(&evidence), deleted) {
            (RemovalCause::DeletedByHand, Some(deleted)) => Ok(self
                .note_removal_by_hand(lease, deleted, departed, reset)
                .await),
            (verdict, _) => Ok(verdict),
        }
    }

    /// Writes the tombstone that is missing after a deletion by hand. Only a
    /// tombstone ends a server.
    ///
    /// It is only written if the record is still absent and the rest is unchanged: the candidate
    /// key exists (clearing the mesh by hand, or a leader without space for a tombstone, deletes it
    /// along with the record), and there is no new tombstone or reset mark. If this fails for any
    /// reason, nothing is proven, and the server rejoins.
    async fn note_removal_by_hand(
        &self,
        lease: LeaseId,
        deleted: Revision,
        departed: Option<KeyValue>,
        reset: Option<KeyValue>,
    ) -> RemovalCause {
        let uuid = self.record.uuid;
        let unchanged = |transaction: Transaction, key: &str, found: Option<KeyValue>| match found {
            Some(kv) => transaction.modified(key, kv.modified),
            None => transaction.absent(key),
        };
        let guard = Transaction::new()
            .absent(&self.keys.server(uuid))
            .created_before(&self.keys.candidate(lease), deleted);
        let guard = unchanged(guard, &self.keys.departed(uuid), departed);
        let guard = unchanged(guard, &self.keys.reset(), reset);
        let noting = async {
            let departed = self.keys.departed(uuid);
            let (put, lease) =
                put_tombstone(&self.etcd, &departed, RemovedBy::Admin, REMOVED_BY_ADMIN).await?;
            let noting = guard
                .then(put)
                .then(self.withdrawal())
                .or_else(Operation::get(&departed));
            let outcome = self.etcd.transact(noting).await?;
            Ok::<_, EtcdError>(outcome.succeeded || tombstones::is_ours(&outcome, lease))
        };
        match noting.await {
            Ok(true) => RemovalCause::Evicted,
            Ok(false) => RemovalCause::Unexplained,
            Err(error) => {
                self.etcd
                    .log_failure("noting that the record was deleted by hand", &error);
                RemovalCause::Unexplained
            }
        }
    }

    /// Leaves: one transaction removes the record, the published key and the candidate key, and
    /// puts a tombstone.
    pub(crate) async fn leave(&self, lease: LeaseId) -> Result<(), EtcdError> {
        let Record { uuid, server, .. } = &self.record;
        Removal::new(
            &self.keys,
            *uuid,
            Some(server),
            RemovedBy::Itself,
            "it killed itself",
        )
        .with_candidacy(self.keys.candidate(lease))
        .carry_out(&self.etcd, Transaction::new())
        .await
        .map(drop)
    }

    /// Deletes the published key.
    fn withdrawal(&self) -> Operation {
        Operation::delete(&self.keys.pipeline(&self.record.server, self.record.uuid))
    }

    /// Revokes the lease without a tombstone: the record, if it still exists, and the
    /// candidate key are on it.
    pub(crate) async fn revoke(&self, lease: LeaseId) {
        tombstones::revoke(&self.etcd, lease, OWN_LEASE).await;
    }
}

fn is_eviction(note: &KeyValue, known: LastWritten, epoch: u64) -> bool {
    tombstones::read(note).is_some_and(|(tombstone, at)| {
        tombstone.why == RemovedBy::Admin && known.is_before(&tombstone, at, epoch)
    })
}

#[cfg(test)]
mod tests;
