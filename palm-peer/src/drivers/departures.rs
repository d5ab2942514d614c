//! Removing others, and the notes that say why somebody left.

use crate::{
    facts::{
        departure::{Departure, Why},
        ids::{LeaseId, Revision},
        keys::Keys,
        timestamp::Timestamp,
    },
    ports::etcd::{Etcd, EtcdError, KeyValue, Lease, Operation, Transaction},
};
use chrono::Utc;
use std::time::Duration;
use uuid::Uuid;

/// How long a note on a departure is kept.
pub const DEPARTED_FOR: Duration = Duration::from_secs(3600);

/// Removes the record and the candidacy of a peer whose process is proven gone, and revokes its lease.
pub async fn bury(
    etcd: &Etcd,
    keys: &Keys,
    uuid: Uuid,
    record: &KeyValue,
    candidate: (&str, Revision, LeaseId),
) -> Result<bool, EtcdError> {
    let (candidate_key, created, lease) = candidate;
    let note_lease = etcd.grant_lease(DEPARTED_FOR).await?.id;
    let buried = etcd
        .transact(
            Transaction::new()
                .created(candidate_key, created)
                .modified(&record.key, record.modified)
                .then(Operation::delete(&record.key))
                .then(Operation::delete(candidate_key))
                .then(Operation::put(
                    &keys.departed(uuid),
                    note(Why::Registry, "its process is gone").to_json(),
                    Lease::Attach(note_lease),
                )),
        )
        .await?
        .succeeded;
    if buried && let Err(error) = etcd.revoke_lease(lease).await {
        log::debug!("lease {lease} of a process that is gone was not revoked and will expire: {error}");
    }
    Ok(buried)
}

/// A note on a departure, written now.
pub fn note(why: Why, reason: &str) -> Departure {
    Departure { why, reason: reason.to_owned(), when: now() }
}

/// The time, as records tell it.
pub fn now() -> Timestamp {
    Utc::now().into()
}
