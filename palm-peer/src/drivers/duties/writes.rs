//! The leader's writes. Each compares the leader's own key of the election: a deposed leader's write fails.

use super::{AGAIN, Mandate, departure_in};
use crate::{
    decisions::{pipeliner::Write, registry::Event},
    drivers::{
        departures::{DEPARTED_FOR, note},
        lock::lock,
    },
    facts::{
        departure::{REMOVED_BY_ADMIN, Why},
        ids::{LeaseId, Revision},
        record::Record,
    },
    ports::{
        etcd::{Etcd, EtcdError, EtcdErrorKind, KeepAlive, KeyValue, Lease, Operation, Transaction},
        timer,
    },
};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long to wait before trying again to renew what lasts a minute.
const AGAIN_LATER: Duration = Duration::from_secs(1);

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It stands.
    Done(Revision),
    /// Something else stood there; `None`: nothing.
    Conflict(Option<Revision>),
    /// The own key of the election is gone: somebody else leads.
    Deposed,
    /// It is not known to stand.
    Failed,
}

/// Writes a record, on the lease of its owner.
pub async fn configure(mandate: Mandate, record: Record, modified: Revision) -> Written {
    let key = mandate.keys.server(record.uuid);
    let put = Operation::put(&key, record.to_json(), Lease::Keep);
    fenced(&mandate, &key, Some(modified), [put]).await
}

/// Removes a record and leaves a note; revokes its lease when the process is proven gone.
pub async fn remove(
    mandate: Mandate,
    uuid: Uuid,
    modified: Revision,
    reason: &'static str,
    revoke: Option<LeaseId>,
) -> Written {
    let note_lease = match mandate.etcd.grant_lease(DEPARTED_FOR).await {
        Ok(granted) => granted.id,
        Err(error) => return failed(&error),
    };
    let key = mandate.keys.server(uuid);
    let note = note(Why::Registry, reason).to_json();
    let operations =
        [Operation::delete(&key), Operation::put(&mandate.keys.departed(uuid), note, Lease::Attach(note_lease))];
    let written = fenced(&mandate, &key, Some(modified), operations).await;
    if let (Written::Done(_), Some(lease)) = (written, revoke)
        && let Err(error) = mandate.etcd.revoke_lease(lease).await
    {
        log::debug!("lease {lease} of a process that is gone was not revoked and will expire: {error}");
    }
    written
}

/// Publishes, or takes back, what can be reached under one server name.
pub async fn publish(mandate: Mandate, write: Write, lease: LeaseId) -> Written {
    let key = mandate.keys.pipeline(&write.server);
    let operation = match &write.pipeline {
        Some(pipeline) => Operation::put(&key, pipeline.to_json(), Lease::Attach(lease)),
        None => Operation::delete(&key),
    };
    fenced(&mandate, &key, write.replaces, [operation]).await
}

async fn fenced(
    mandate: &Mandate,
    target: &str,
    replaces: Option<Revision>,
    operations: impl IntoIterator<Item = Operation>,
) -> Written {
    if !lock(&mandate.clock).is_held(Instant::now()) {
        return Written::Failed;
    }
    let fence = Transaction::new().created(&mandate.candidate, mandate.term);
    let guarded = match replaces {
        Some(revision) => fence.modified(target, revision),
        None => fence.absent(target),
    };
    let transaction = operations
        .into_iter()
        .fold(guarded, Transaction::then)
        .or_else(Operation::get(&mandate.candidate))
        .or_else(Operation::get(target));
    match mandate.etcd.transact(transaction).await {
        Ok(outcome) if outcome.succeeded => Written::Done(outcome.revision),
        Ok(outcome) => {
            let mut found = outcome.reads.into_iter().map(|keys| keys.into_iter().next());
            let own = found.next().flatten();
            if own.is_some_and(|own| own.created == mandate.term) {
                Written::Conflict(found.next().flatten().map(|kv| kv.modified))
            } else {
                Written::Deposed
            }
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &EtcdError) -> Written {
    if error.kind() == EtcdErrorKind::Unreachable {
        log::debug!("a write of the leader failed: {error}");
    } else {
        log::warn!("a write of the leader failed: {error}");
    }
    Written::Failed
}

/// Finds out why a record is gone; asks etcd until it answers.
pub async fn explain_deletion(mandate: &Mandate, uuid: Uuid, gone: &KeyValue) -> Event {
    loop {
        match try_to_explain(mandate, uuid, gone).await {
            Ok(event) => return event,
            Err(error) => log::debug!("why {} is gone is not known yet: {error}", gone.key),
        }
        timer::sleep(AGAIN).await;
    }
}

async fn try_to_explain(mandate: &Mandate, uuid: Uuid, gone: &KeyValue) -> Result<Event, EtcdError> {
    let Mandate { etcd, keys, .. } = mandate;
    let (departed, reset) = (keys.departed(uuid), keys.reset());
    let lease_lives = async {
        match gone.lease {
            Some(lease) => etcd.lease_ttl(lease).await.map(|left| left.is_some()),
            None => Ok(true),
        }
    };
    // A server whose key was deleted by hand writes the note before it gives up its lease: asked in this order, one of the
    // two tells of it.
    let lease_alive = lease_lives.await?;
    let (departed, reset) = futures::try_join!(etcd.get(&departed), etcd.get(&reset))?;
    let departure = departure_in(departed).filter(|(_, at)| *at > gone.modified).map(|(departure, _)| departure);
    let reset = reset.is_some_and(|mark| mark.modified > gone.modified);
    Ok(Event::Deleted { uuid, written: gone.modified, departure, reset, lease_alive })
}

/// How the leader before ended, if nobody has said so yet: whoever leaves or is buried is told of at once.
pub async fn end_of_predecessor(
    mandate: &Mandate,
    uuid: Uuid,
    lease: LeaseId,
) -> Result<Option<&'static str>, EtcdError> {
    let Mandate { etcd, keys, .. } = mandate;
    // In this order for the reason given in `try_to_explain`.
    let lease_lost = etcd.lease_ttl(lease).await?.is_none();
    let note = departure_in(etcd.get(&keys.departed(uuid)).await?);
    Ok(match note.map(|(departure, _)| departure.why) {
        Some(Why::Admin) => Some(REMOVED_BY_ADMIN),
        Some(Why::Itself | Why::Registry) => None,
        None => lease_lost.then_some("its lease expired"),
    })
}

/// Renews the lease of what is published, until it is lost.
pub async fn keep_publication(etcd: Etcd, lease: LeaseId, ttl: Duration) {
    let mut stream: Option<KeepAlive> = None;
    loop {
        timer::sleep(if stream.is_some() { ttl / 3 } else { AGAIN_LATER }).await;
        let renewed = match &mut stream {
            Some(stream) => stream.renew().await,
            None => match etcd.keep_alive(lease).await {
                Ok(opened) => {
                    stream = Some(opened);
                    Ok(Some(ttl))
                }
                Err(error) if error.kind() == EtcdErrorKind::LeaseGone => Ok(None),
                Err(error) => Err(error),
            },
        };
        match renewed {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(error) => {
                log::debug!("the lease of what is published could not be renewed: {error}");
                stream = None;
            }
        }
    }
}
