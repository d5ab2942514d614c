//! The leader's writes. Each compares the leader's own election key: a deposed
//! leader's write fails.

use super::{BACKOFF, LeaderContext};
use crate::{
    io::etcd::{EtcdError, KeyValue, Lease, Operation, Transaction},
    leader::tombstones::{self, LEASE_OF_GONE},
    sync::lock,
};
use palm_proto::{
    registry::{Event, Removal},
    types::{
        ids::{LeaseId, Revision},
        instance::Instance,
        record::Record,
        tombstone::{REMOVED_BY_ADMIN, RemovedBy},
    },
};
use std::time::Instant;
use uuid::Uuid;

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteOutcome {
    /// It succeeded, at this revision.
    Done(Revision),
    /// A compared key had changed.
    Conflict,
    /// The leader's own election key is gone: another peer leads.
    Deposed,
    /// It is not known to have succeeded.
    Failed,
}

impl WriteOutcome {
    /// Returns the revision of the write; `None` when it is not known to have succeeded.
    pub(super) fn stands(self) -> Option<Revision> {
        match self {
            Self::Done(revision) => Some(revision),
            Self::Conflict | Self::Deposed | Self::Failed => None,
        }
    }
}

/// Writes a record, and in the same transaction publishes the server, both on the server's lease;
/// if it is not ready, deletes the published key.
pub(super) async fn configure(
    context: LeaderContext,
    record: Record,
    modified: Revision,
    lease: Option<LeaseId>,
) -> WriteOutcome {
    let key = context.keys.server(record.uuid);
    let put = Operation::put(&key, record.to_json(), Lease::Keep);
    let published = context.keys.pipeline(&record.server, record.uuid);
    // A record that was put by hand may have no lease.
    let lease = lease.map_or(Lease::None, Lease::Attach);
    let publish = if record.is_ready() {
        Operation::put(&published, Instance::of(&record).to_json(), lease)
    } else {
        Operation::delete(&published)
    };
    let written = fenced(&context, [(key.as_str(), Some(modified))], [put, publish]).await;
    written.unwrap_or_else(|error| failed(&context, &key, &error))
}

/// Writes records in one transaction, each on the lease of its owner.
pub(super) async fn rewrite(
    context: &LeaderContext,
    records: &[(Record, Revision)],
) -> WriteOutcome {
    let keys: Vec<_> = records
        .iter()
        .map(|(record, modified)| (context.keys.server(record.uuid), *modified))
        .collect();
    let puts = keys.iter().zip(records);
    let puts =
        puts.map(|((key, _), (record, _))| Operation::put(key, record.to_json(), Lease::Keep));
    let replaced = keys
        .iter()
        .map(|(key, modified)| (key.as_str(), Some(*modified)));
    let written = fenced(context, replaced, puts).await;
    written.unwrap_or_else(|error| failed(context, &context.keys.servers(), &error))
}

/// Deletes the published key of a server, if its record still has this revision
/// (`None`: is absent).
pub(super) async fn withdraw(
    context: &LeaderContext,
    uuid: Uuid,
    server: &str,
    found: Option<Revision>,
) -> WriteOutcome {
    let key = context.keys.pipeline(server, uuid);
    let written = fenced(
        context,
        [(context.keys.server(uuid).as_str(), found)],
        [Operation::delete(&key)],
    )
    .await;
    written.unwrap_or_else(|error| failed(context, &key, &error))
}

/// Removes a record and the published key, and puts a tombstone; revokes the server's lease when
/// the process is proven gone.
///
/// An etcd that is out of space refuses the tombstone. Then the candidate key is deleted as well:
/// so the server, if it is alive, sees that this is not a deletion by hand, which only deletes the
/// record. (Except the leader's own candidate key, by which it leads.)
pub(super) async fn remove(context: LeaderContext, removal: Removal) -> WriteOutcome {
    let Removal {
        uuid,
        server,
        modified,
        reason,
        lease,
        revoke,
    } = removal;
    let removal = tombstones::Removal::new(
        &context.keys,
        uuid,
        Some(&server),
        RemovedBy::Registry,
        reason,
    );
    let candidacy = match lease {
        Some(lease) if uuid != context.me => vec![context.keys.candidate(lease)],
        _ => Vec::new(),
    };
    let replaced = (removal.record.as_str(), Some(modified));
    let transact = |operations: Vec<Operation>| fenced(&context, [replaced], operations);
    let written = match removal.transact(&context.etcd, &candidacy, transact).await {
        Ok((written, _)) => written,
        Err(error) => failed(&context, &removal.record, &error),
    };
    if revoke
        && let WriteOutcome::Done(_) = written
        && let Some(lease) = lease
    {
        tombstones::revoke(&context.etcd, lease, LEASE_OF_GONE).await;
    }
    written
}

/// Runs operations, fenced: only while this leader leads, and while each of these keys has this mod
/// revision (`None`: is absent).
async fn fenced<'a>(
    context: &LeaderContext,
    replaced: impl IntoIterator<Item = (&'a str, Option<Revision>)>,
    operations: impl IntoIterator<Item = Operation>,
) -> Result<WriteOutcome, EtcdError> {
    if !lock(&context.clock).is_held(Instant::now()) {
        return Ok(WriteOutcome::Failed);
    }
    let fence = Transaction::new().created(&context.candidate, context.term);
    let guarded = replaced
        .into_iter()
        .fold(fence, |transaction, (key, revision)| match revision {
            Some(revision) => transaction.modified(key, revision),
            None => transaction.absent(key),
        });
    let transaction = operations
        .into_iter()
        .fold(guarded, Transaction::then)
        .or_else(Operation::get(&context.candidate));
    let outcome = context.etcd.transact(transaction).await?;
    if outcome.succeeded {
        return Ok(WriteOutcome::Done(outcome.revision));
    }
    let own = outcome.reads.into_iter().flatten().next();
    Ok(if own.is_some_and(|own| own.created == context.term) {
        WriteOutcome::Conflict
    } else {
        WriteOutcome::Deposed
    })
}

fn failed(context: &LeaderContext, key: &str, error: &EtcdError) -> WriteOutcome {
    let folder = key.rsplit_once('/').map_or(key, |(folder, _)| folder);
    context
        .etcd
        .log_failure(&format!("a write of the leader under {folder}/"), error);
    WriteOutcome::Failed
}

/// Determines why a record is gone; retries until etcd answers.
pub(super) async fn explain_deletion(
    context: &LeaderContext,
    uuid: Uuid,
    gone: &KeyValue,
) -> Event {
    context
        .etcd
        .retry("finding out why a record is gone", BACKOFF, || {
            try_to_explain(context, uuid, gone)
        })
        .await
}

async fn try_to_explain(
    context: &LeaderContext,
    uuid: Uuid,
    gone: &KeyValue,
) -> Result<Event, EtcdError> {
    let LeaderContext { etcd, keys, .. } = context;
    let (departed, reset) = (keys.departed(uuid), keys.reset());
    let lease_lives = async {
        match gone.lease {
            Some(lease) => etcd.lease_ttl(lease).await.map(|left| left.is_some()),
            None => Ok(true),
        }
    };
    // A server whose key was deleted by hand writes the tombstone before it gives up its lease:
    // read in this order, one of the two shows it.
    let lease_alive = lease_lives.await?;
    let (departed, reset) = futures::try_join!(etcd.get(&departed), etcd.get(&reset))?;
    let departure = departed.as_ref().and_then(tombstones::read);
    let departure = departure
        .filter(|(_, at)| *at > gone.modified)
        .map(|(departure, _)| departure);
    let reset = reset.is_some_and(|mark| mark.modified > gone.modified);
    Ok(Event::Deleted {
        uuid,
        written: gone.modified,
        departure,
        reset,
        lease_alive,
    })
}

/// Returns how the previous leader ended, if nobody has logged it yet; exits with a tombstone
/// are logged at once.
pub(super) async fn end_of_predecessor(
    context: &LeaderContext,
    uuid: Uuid,
    lease: LeaseId,
) -> Result<Option<&'static str>, EtcdError> {
    let LeaderContext { etcd, keys, .. } = context;
    // In this order for the reason given in `try_to_explain`.
    let lease_lost = etcd.lease_ttl(lease).await?.is_none();
    let note = etcd.get(&keys.departed(uuid)).await?;
    Ok(
        match note
            .as_ref()
            .and_then(tombstones::read)
            .map(|(departure, _)| departure.why)
        {
            Some(RemovedBy::Admin) => Some(REMOVED_BY_ADMIN),
            Some(RemovedBy::Itself | RemovedBy::Registry) => None,
            None => lease_lost.then_some("its lease expired"),
        },
    )
}
