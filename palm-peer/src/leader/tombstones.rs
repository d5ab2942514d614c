//! Removing others, and the notes that say why somebody left.

use crate::io::etcd::{Etcd, EtcdError, EtcdErrorKind, KeyValue, Lease, Operation, Transaction, TxnOutcome};
use crate::io::wall_clock::timestamp;
use palm_proto::types::{
    ids::{LeaseId, Revision},
    keys::Keys,
    tombstone::{RemovedBy, Tombstone},
};
use std::time::Duration;
use uuid::Uuid;

/// How long a note on a departure is kept.
pub(crate) const DEPARTED_FOR: Duration = Duration::from_secs(3600);

/// What is said to fail when the lease of another process is not revoked.
pub(crate) const REVOKING: &str = "revoking the lease of a process that is gone (it will expire by itself)";

/// Removes the record and the candidacy of a peer whose process is proven gone, and what is published of it, and revokes its lease.
pub(crate) async fn remove_dead_peer(
    etcd: &Etcd,
    keys: &Keys,
    (uuid, server): (Uuid, &str),
    record: &KeyValue,
    candidate: (&str, Revision, LeaseId),
) -> Result<bool, EtcdError> {
    let (candidate_key, created, lease) = candidate;
    let deletion = Transaction::new()
        .created(candidate_key, created)
        .modified(&record.key, record.modified)
        .then(Operation::delete(&record.key))
        .then(Operation::delete(&keys.pipeline(server, uuid)))
        .then(Operation::delete(candidate_key));
    let note = note(RemovedBy::Registry, "its process is gone");
    let buried = delete_with_note(etcd, deletion, &keys.departed(uuid), &note).await?.outcome.succeeded;
    if buried && let Err(error) = etcd.revoke_lease(lease).await {
        etcd.log_failure(REVOKING, &error);
    }
    Ok(buried)
}

/// What became of a deletion and its note.
pub(crate) struct Noted {
    /// Of the transaction.
    pub outcome: TxnOutcome,
    /// The lease of the note; `None` when etcd is out of space, and there is no note.
    pub lease: Option<LeaseId>,
}

/// Carries out a deletion, and leaves a note beside it in the same transaction. Without space etcd refuses each note, but no
/// deletion: then there is none.
pub(crate) async fn delete_with_note(
    etcd: &Etcd,
    deletion: Transaction,
    departed: &str,
    note: &Tombstone,
) -> Result<Noted, EtcdError> {
    match try_to_delete_with_note(etcd, deletion.clone(), departed, note).await {
        Err(error) if error.kind() == EtcdErrorKind::NoSpace => {
            etcd.log_failure(&format!("writing {departed}, which says \"{}\",", note.reason), &error);
            Ok(Noted { outcome: etcd.transact(deletion).await?, lease: None })
        }
        result => result,
    }
}

async fn try_to_delete_with_note(
    etcd: &Etcd,
    deletion: Transaction,
    departed: &str,
    note: &Tombstone,
) -> Result<Noted, EtcdError> {
    let lease = etcd.grant_lease(DEPARTED_FOR).await?.id;
    let put = Operation::put(departed, note.to_json(), Lease::Attach(lease));
    let outcome = etcd.transact(deletion.then(put)).await?;
    Ok(Noted { outcome, lease: Some(lease) })
}

/// A note on a departure, written now.
pub(crate) fn note(why: RemovedBy, reason: &str) -> Tombstone {
    Tombstone { why, reason: reason.to_owned(), when: timestamp() }
}
