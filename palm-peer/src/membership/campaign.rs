//! Carries out the actions of the election: campaigns, watches the next older candidates,
//! monitors the leader.

use crate::{
    client::{
        dialer::Dialer,
        failure_detector::{self, Finding},
        link::Link,
        link_pool::{LinkPool, OPEN_WITHIN},
        witnesses::{agree_that_gone, registered},
    },
    io::{
        etcd::{Change, Etcd, EtcdError, KeyValue, Lease, Operation, Target, Transaction},
        tasks::Name,
        timer,
    },
    leader::tombstones::{self, LEASE_OF_GONE, Removal, Removed},
};
use futures::future::select;
use palm_proto::{
    backoff::{Backoff, backoff},
    election::{AHEAD, Candidate, MAX_WAIT},
    types::{
        ids::{LeaseId, Revision},
        keys::Keys,
        record::Record,
        tombstone::RemovedBy,
    },
};
use std::{pin::pin, sync::Arc, time::Duration};
use uuid::Uuid;

/// How many candidates are read: its own, and those before it that matter.
const WANTED: usize = AHEAD + 1;

/// The waits between attempts to stand for election, and to resign.
const BACKOFF: Backoff = Backoff::full_jitter(Duration::from_millis(100), Duration::from_secs(3));
/// The waits before a candidate that is not reached is looked for again.
const LOOK_AGAIN: Backoff = Backoff::full_jitter(Duration::from_millis(50), Duration::from_secs(5));
/// How long witnesses may take to report whether they reach the leader.
const ASK_WITHIN: Duration = Duration::from_millis(1500);

/// Puts the candidate key, if it is absent, and lists it and those before it that matter; retries
/// until etcd does it.
pub(super) async fn put_candidate(
    etcd: &Etcd,
    keys: &Keys,
    me: Uuid,
    lease: LeaseId,
) -> Vec<Candidate> {
    let what = format!("campaigning under {}", keys.election());
    etcd.retry(&what, BACKOFF, || try_to_stand(etcd, keys, me, lease))
        .await
}

async fn try_to_stand(
    etcd: &Etcd,
    keys: &Keys,
    me: Uuid,
    lease: LeaseId,
) -> Result<Vec<Candidate>, EtcdError> {
    let own = keys.candidate(lease);
    // Without space, etcd refuses any transaction that may put, so a peer that is a candidate
    // already must not send one.
    let created = match etcd.get(&own).await? {
        Some(kv) if Candidate::read(keys, &kv).is_some() => kv.created,
        found => {
            let guarded = match found {
                // The key was not put by this peer: it has no lease, or another.
                Some(kv) => Transaction::new().modified(&own, kv.modified),
                None => Transaction::new().absent(&own),
            };
            let put = Operation::put(&own, me.to_string(), Lease::Attach(lease));
            etcd.transact(guarded.then(put)).await?;
            let Some(kv) = etcd.get(&own).await? else {
                return Ok(Vec::new());
            };
            kv.created
        }
    };
    list_to(etcd, keys, created).await
}

/// Lists the candidate whose key was created then, and the latest of those before it. What was not
/// put by a peer must not hide who stands before it.
async fn list_to(etcd: &Etcd, keys: &Keys, created: Revision) -> Result<Vec<Candidate>, EtcdError> {
    let mut max = WANTED;
    loop {
        let found = etcd
            .list_latest(&keys.election(), Some(created), max)
            .await?;
        let all = found.len() < max;
        let candidates: Vec<_> = found
            .iter()
            .filter_map(|kv| Candidate::read(keys, kv))
            .collect();
        if all || candidates.len() >= WANTED {
            return Ok(candidates);
        }
        max = max.saturating_mul(4);
    }
}

/// Deletes the candidate key, if it is still that of this term; retries until etcd does it.
pub(super) async fn resign(etcd: &Etcd, own: &str, term: Revision) {
    let resigning = Transaction::new()
        .created(own, term)
        .then(Operation::delete(own));
    etcd.retry(&format!("resigning under {own}"), BACKOFF, || {
        etcd.transact(resigning.clone())
    })
    .await;
}

/// Waits, for `wait` at first, until each of these servers is reached from here, or is no longer
/// registered, or until nobody stands for election.
pub(super) async fn until_reached(
    etcd: &Etcd,
    keys: &Keys,
    dialer: &Dialer,
    unreached: Vec<Uuid>,
    wait: Duration,
) {
    for attempt in 0.. {
        let wait = backoff(attempt, wait, MAX_WAIT, 0.0);
        // When others end, this one may be the last that could lead.
        match etcd
            .list_latest(&keys.election(), None, 1)
            .await
            .map(|mut found| found.pop())
        {
            Ok(None) => return,
            Ok(Some(kv)) => {
                select(
                    pin!(timer::sleep(wait)),
                    pin!(gone(etcd, kv.key, kv.created)),
                )
                .await;
            }
            Err(_) => timer::sleep(wait).await,
        }
        if !is_unreached(etcd, keys, dialer, &unreached)
            .await
            .unwrap_or(true)
        {
            return;
        }
    }
}

async fn is_unreached(
    etcd: &Etcd,
    keys: &Keys,
    dialer: &Dialer,
    unreached: &[Uuid],
) -> Result<bool, EtcdError> {
    for uuid in unreached {
        if let Some(record) = registered(etcd, keys, *uuid).await?
            && dialer
                .open(&record.endpoint(), *uuid, OPEN_WITHIN)
                .await
                .is_err()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits until the key that was created at this revision is gone. A key that was put again since
/// belongs to another campaign.
pub(super) async fn gone(etcd: &Etcd, key: String, created: Revision) {
    let mut watch = etcd.watch(Target::Key(key));
    let mut there = false;
    loop {
        match watch.next().await {
            Change::Put { current, .. } if current.created == created => there = true,
            Change::Listed { .. } if there => {}
            Change::Put { .. }
            | Change::Deleted { .. }
            | Change::Listed { .. }
            | Change::NewHistory => return,
            Change::Stale { reason } => {
                log::debug!("the watch on a candidate was interrupted: {reason}");
            }
        }
    }
}

/// What to do about a candidate whose process is proven gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    /// Nothing: it does not lead.
    Know,
    /// Remove it after this time: the next in line does so first, and the third only when that one
    /// is gone as well.
    RemoveDead(Duration),
}

/// How much later than the next in line the third candidate removes the leader.
pub(super) const AFTER_THE_NEXT: Duration = Duration::from_millis(300);

/// Watches over a candidate before this one in line, over a link.
#[derive(Clone)]
pub(crate) struct LeaderMonitor {
    pub(crate) etcd: Etcd,
    pub(crate) keys: Keys,
    /// Opens links to servers that are asked whether they reach the candidate.
    pub(crate) dialer: Dialer,
    /// The links to candidates.
    pub(crate) links: Arc<LinkPool>,
    pub(crate) candidate: Candidate,
    pub(crate) duty: Duty,
}

impl LeaderMonitor {
    /// Keeps a link to the candidate. If that is the leader, it is buried when its process is
    /// proven gone, so that the mesh need not wait for the TTL. Silence proves nothing: then the
    /// TTL decides. Ends when the candidate is not registered any more.
    pub(crate) async fn run(self) {
        let Some(uuid) = self.candidate.uuid else {
            return;
        };
        let mut failures = 0;
        loop {
            match self.etcd.get(&self.keys.server(uuid)).await {
                Ok(found) => {
                    let Some(kv) = found else { return };
                    let Ok(record) = Record::from_json(&kv.value) else {
                        return;
                    };
                    match failure_detector::check(&self.links, uuid, &record.endpoint()).await {
                        Finding::Connected(link) => {
                            failures = 0;
                            until_broken(link).await;
                            continue;
                        }
                        Finding::Reconnected(link) => {
                            failures = 0;
                            self.links.keep(uuid, &record.endpoint(), &link);
                            until_broken(link).await;
                            continue;
                        }
                        Finding::Gone => {
                            if self.remove_dead(uuid, record, kv).await {
                                return;
                            }
                        }
                        Finding::Unknown => {}
                    }
                }
                Err(error) => self
                    .etcd
                    .log_failure("looking for a candidate's record", &error),
            }
            failures += 1;
            timer::sleep(LOOK_AGAIN.wait(failures, fastrand::f64())).await;
        }
    }

    /// Removes the dead candidate, if that is this one's turn, and others agree: the way there may
    /// be barred for this process alone.
    async fn remove_dead(&self, uuid: Uuid, record: Record, kv: KeyValue) -> bool {
        let Duty::RemoveDead(after) = self.duty else {
            return false;
        };
        timer::sleep(after).await;
        if !self.others_agree(uuid).await {
            return false;
        }
        // The election goes on as soon as the key is gone, and ends this task: what follows is
        // finished all the same.
        let (etcd, keys, leader) = (self.etcd.clone(), self.keys.clone(), self.candidate.clone());
        let burial = self.etcd.spawn(
            Name::LeaderRemoval,
            remove_dead_leader(etcd, keys, leader, record, kv),
        );
        burial.await == Ok(true)
    }

    async fn others_agree(&self, leader: Uuid) -> bool {
        match agree_that_gone(&self.etcd, &self.keys, &self.dialer, leader, ASK_WITHIN).await {
            Ok(true) => true,
            Ok(false) => {
                log::info!(
                    "the leader, {leader}, cannot be reached from here, but others reach it, or cannot be asked"
                );
                false
            }
            Err(error) => {
                self.etcd
                    .log_failure("looking for servers to ask about the leader", &error);
                false
            }
        }
    }
}

/// Waits for the end of a link, which is watched: the way to the leader may die without a word,
/// while the leader lives.
async fn until_broken(link: Arc<Link>) {
    let broken = link.broken();
    let _watched = link.watch();
    drop(link);
    broken.await;
}

async fn remove_dead_leader(
    etcd: Etcd,
    keys: Keys,
    leader: Candidate,
    record: Record,
    kv: KeyValue,
) -> bool {
    let uuid = record.uuid;
    let guard = Transaction::new()
        .created(&leader.key, leader.created)
        .modified(&kv.key, kv.modified);
    let removal = Removal::new(
        &keys,
        uuid,
        Some(&record.server),
        RemovedBy::Registry,
        "its process is gone",
    );
    match removal
        .with_candidacy(leader.key)
        .carry_out(&etcd, guard)
        .await
    {
        Ok(Removed::Not) => false,
        Ok(Removed::WithTombstone | Removed::WithoutTombstone) => {
            tombstones::revoke(&etcd, leader.lease, LEASE_OF_GONE).await;
            log::info!(target: "registry", "Deleted server {uuid} because its process is gone");
            true
        }
        Err(error) => {
            etcd.log_failure("removing the leader, whose process is gone,", &error);
            false
        }
    }
}

#[cfg(test)]
mod tests;
