//! Carries out what the election decides: stands, follows the next older candidate, watches over the leader.

use crate::{
    decisions::{
        backoff::{HELD, backoff, wait_after_end},
        election::Candidate,
    },
    drivers::{departures::bury, dialer::Dialer},
    facts::{ids::LeaseId, keys::Keys, record::Record},
    ports::{
        etcd::{Change, Etcd, EtcdError, KeyValue, Lease, Operation, Target, Transaction},
        timer,
    },
};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long a link to the leader may take to open, at most.
const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// How long the first try may take after a link broke: a process that is being killed closes its connections before the
/// port that it listens on, and lets in whom it will never answer.
const REOPEN_WITHIN: Duration = Duration::from_millis(50);

/// Puts the own key if it is absent, and lists all candidates; tries until etcd does it.
pub async fn stand(etcd: &Etcd, keys: &Keys, me: Uuid, lease: LeaseId) -> Vec<Candidate> {
    for attempt in 0.. {
        match try_to_stand(etcd, keys, me, lease).await {
            Ok(candidates) => return candidates,
            Err(error) => log::debug!("standing for election must wait: {error}"),
        }
        let wait = backoff(attempt, Duration::from_millis(100), Duration::from_secs(2), fastrand::f64());
        timer::sleep(wait).await;
    }
    Vec::new()
}

async fn try_to_stand(etcd: &Etcd, keys: &Keys, me: Uuid, lease: LeaseId) -> Result<Vec<Candidate>, EtcdError> {
    let own = keys.candidate(lease);
    let put = Operation::put(&own, me.to_string(), Lease::Attach(lease));
    etcd.transact(Transaction::new().absent(&own).then(put)).await?;
    let listing = etcd.list(&keys.election()).await?;
    Ok(listing.items.iter().filter_map(|kv| Candidate::read(keys, kv)).collect())
}

/// Waits until a key is gone.
pub async fn gone(etcd: &Etcd, key: String) {
    let mut watch = etcd.watch(Target::Key(key));
    let mut there = false;
    loop {
        match watch.next().await {
            Change::Put { .. } => there = true,
            Change::Listed { .. } if there => {}
            Change::Deleted { .. } | Change::Listed { .. } => return,
            Change::Interrupted { reason } => log::debug!("the watch on a candidate was interrupted: {reason}"),
        }
    }
}

/// Keeps a link to the leader, and buries it when its process is proven gone, so that the mesh need not wait for the
/// TTL. Silence proves nothing: then the TTL decides.
pub async fn watch_over(etcd: &Etcd, keys: &Keys, dialer: &Dialer, leader: &Candidate) {
    let Some(uuid) = leader.uuid else { return };
    let mut was_there = false;
    let mut failures = 0;
    let mut patience = OPEN_WITHIN;
    // How many links in a row did not hold.
    let mut ends = 0;
    loop {
        if let Ok(found) = etcd.get(&keys.server(uuid)).await {
            let known = found.and_then(|kv| Some((Record::from_json(&kv.value).ok()?, kv)));
            let Some((record, kv)) = known else { return };
            match dialer.open(&record.endpoint(), uuid, patience).await {
                Ok(link) => {
                    (was_there, failures, patience) = (true, 0, REOPEN_WITHIN);
                    let opened = Instant::now();
                    link.broken().await;
                    // Looked at again at once; but not for ever one that lets everybody in and ends it again.
                    ends = if opened.elapsed() > HELD { 0 } else { ends + 1 };
                    timer::sleep(wait_after_end(ends, fastrand::f64())).await;
                    continue;
                }
                // Only a process that was there once can be gone; the address may be wrong.
                Err(error) if error.proves_gone() && (was_there || record.configured) => {
                    // The election goes on as soon as the key is gone, and ends this task: what follows is finished all
                    // the same.
                    let burial = etcd.spawn(bury_leader(etcd.clone(), keys.clone(), leader.clone(), uuid, kv));
                    if burial.await == Ok(true) {
                        return;
                    }
                }
                Err(_) => {}
            }
        }
        failures += 1;
        patience = (patience * 2).min(OPEN_WITHIN);
        let wait = backoff(failures, Duration::from_millis(50), Duration::from_secs(5), fastrand::f64());
        timer::sleep(wait).await;
    }
}

async fn bury_leader(etcd: Etcd, keys: Keys, leader: Candidate, uuid: Uuid, record: KeyValue) -> bool {
    let candidate = (leader.key.as_str(), leader.created, leader.lease);
    match bury(&etcd, &keys, uuid, &record, candidate).await {
        Ok(buried) => {
            if buried {
                log::info!(target: "registry", "Deleted server {uuid} because its process is gone");
            }
            buried
        }
        Err(error) => {
            log::warn!("the leader's process is gone, but etcd still lists it: {error}");
            false
        }
    }
}
