//! Removing records, and the tombstones that say why a server left. Nothing else deletes a record
//! or writes a tombstone.

use crate::io::{
    etcd::{Etcd, EtcdError, EtcdErrorKind, KeyValue, Lease, Operation, Transaction, TxnOutcome},
    wall_clock::timestamp,
};
use palm_proto::types::{
    ids::{LeaseId, Revision},
    keys::Keys,
    tombstone::{RemovedBy, Tombstone},
};
use std::{future::Future, time::Duration};
use uuid::Uuid;

/// How long a tombstone is kept.
const KEPT_FOR: Duration = Duration::from_secs(3600);

/// A server whose record is removed, and what its tombstone says.
#[derive(Debug, Clone)]
pub(crate) struct Removal {
    /// The key of the record.
    pub(crate) record: String,
    /// Other keys that are deleted with it: what is published of the server, and its candidacy
    /// where that ends too.
    pub(crate) also: Vec<String>,
    /// The key of the tombstone.
    pub(crate) departed: String,
    /// Who removes it.
    pub(crate) why: RemovedBy,
    /// Why it is removed, for people.
    pub(crate) reason: &'static str,
}

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removed {
    /// It is done.
    WithTombstone,
    /// It is done, but etcd is out of space, and refused the tombstone.
    WithoutTombstone,
    /// Something had changed; nothing is removed.
    Not,
}

impl Removal {
    /// Removes the record of a server of this name, and what is published of it.
    pub(crate) fn new(
        keys: &Keys,
        uuid: Uuid,
        server: Option<&str>,
        why: RemovedBy,
        reason: &'static str,
    ) -> Self {
        Self {
            record: keys.server(uuid),
            // Of a record that cannot be read nothing is published.
            also: server
                .map(|server| keys.pipeline(server, uuid))
                .into_iter()
                .collect(),
            departed: keys.departed(uuid),
            why,
            reason,
        }
    }

    /// Removes the candidacy under this key as well.
    #[must_use]
    pub(crate) fn with_candidacy(mut self, key: String) -> Self {
        self.also.push(key);
        self
    }

    /// Removes the record, if what `guard` compares holds.
    pub(crate) async fn carry_out(
        &self,
        etcd: &Etcd,
        guard: Transaction,
    ) -> Result<Removed, EtcdError> {
        let guard = guard.or_else(Operation::get(&self.departed));
        let transact = |operations: Vec<Operation>| {
            etcd.transact(
                operations
                    .into_iter()
                    .fold(guard.clone(), Transaction::then),
            )
        };
        let (outcome, tombstone) = self.transact(etcd, &[], transact).await?;
        if outcome.succeeded {
            return Ok(if tombstone.is_some() {
                Removed::WithTombstone
            } else {
                Removed::WithoutTombstone
            });
        }
        let Some(lease) = tombstone else {
            return Ok(Removed::Not);
        };
        if is_ours(&outcome, lease) {
            return Ok(Removed::WithTombstone);
        }
        revoke(etcd, lease, "the lease of a tombstone that is not needed").await;
        Ok(Removed::Not)
    }

    /// Has `transact` carry out the deletions together with the tombstone. Without space, etcd
    /// takes no tombstone, but deletions: then has it carry out these and those of the keys
    /// `without_space`. Returns the lease of the tombstone, if there is one.
    pub(crate) async fn transact<T, F>(
        &self,
        etcd: &Etcd,
        without_space: &[String],
        transact: impl Fn(Vec<Operation>) -> F,
    ) -> Result<(T, Option<LeaseId>), EtcdError>
    where
        F: Future<Output = Result<T, EtcdError>>,
    {
        let deletions = || {
            [&self.record]
                .into_iter()
                .chain(&self.also)
                .map(|key| Operation::delete(key))
        };
        let done = match put_tombstone(etcd, &self.departed, self.why, self.reason).await {
            Ok((put, lease)) => transact(deletions().chain([put]).collect())
                .await
                .map(|outcome| (outcome, Some(lease))),
            Err(error) => Err(error),
        };
        match done {
            Err(error) if error.kind() == EtcdErrorKind::NoSpace => {
                etcd.log_failure(
                    &format!(
                        "writing {}, with the reason \"{}\",",
                        self.departed, self.reason
                    ),
                    &error,
                );
                let further = without_space.iter().map(|key| Operation::delete(key));
                Ok((transact(deletions().chain(further).collect()).await?, None))
            }
            done => done,
        }
    }
}

/// The operation that puts a tombstone, written now, and the lease that was granted for it.
pub(crate) async fn put_tombstone(
    etcd: &Etcd,
    departed: &str,
    why: RemovedBy,
    reason: &str,
) -> Result<(Operation, LeaseId), EtcdError> {
    let lease = etcd.grant_lease(KEPT_FOR).await?.id;
    let tombstone = Tombstone {
        why,
        reason: reason.to_owned(),
        when: timestamp(),
    };
    Ok((
        Operation::put(departed, tombstone.to_json(), Lease::Attach(lease)),
        lease,
    ))
}

/// Whether the tombstone that a transaction found is the one on this lease: the answer to an
/// attempt that went through may have been lost.
pub(crate) fn is_ours(outcome: &TxnOutcome, lease: LeaseId) -> bool {
    outcome
        .reads
        .iter()
        .flatten()
        .any(|found| found.lease == Some(lease))
}

/// Reads what a key of `/departed/` holds: the tombstone, and when it was written; `None`
/// when it is none.
pub(crate) fn read(found: &KeyValue) -> Option<(Tombstone, Revision)> {
    Some((Tombstone::from_json(&found.value)?, found.modified))
}

/// Revokes a lease, which else expires by itself.
pub(crate) async fn revoke(etcd: &Etcd, lease: LeaseId, what: &str) {
    if let Err(error) = etcd.revoke_lease(lease).await {
        etcd.log_failure(
            &format!("revoking {what} (it will expire by itself)"),
            &error,
        );
    }
}

/// What is said to be revoked when a peer leaves.
pub(crate) const OWN_LEASE: &str = "the own lease";

/// What is said to be revoked after the end of a process.
pub(crate) const LEASE_OF_GONE: &str = "the lease of a process that is gone";

#[cfg(test)]
mod tests;
