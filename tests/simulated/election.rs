//! Prevents simulated servers from leading, which they cannot do.

use super::{
    Shared, Simulated,
    etcd::{RangeRequest, delete, folder, put},
    registration::candidacy,
};
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tonic::Status;

/// etcd's limit is 128 operations in a transaction.
const MAX_OPERATIONS: usize = 100;

/// Moves simulated servers to the end of the candidates whenever one of them is first.
pub(super) async fn step_aside(shared: Arc<Shared>) {
    loop {
        shared.candidates_changed.notified().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        while !matches!(try_to_step_aside(&shared).await, Ok(true)) {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// Makes servers candidates that registered while there was no leader.
async fn stand(shared: &Shared, waiting: &[&Arc<Simulated>]) -> Result<(), Status> {
    for some in waiting.chunks(MAX_OPERATIONS) {
        let puts = some.iter().map(|server| {
            let lease = server.held.lock().unwrap().lease;
            put(candidacy(lease), server.face.uuid.to_string(), lease)
        });
        shared.store.transact(puts.collect()).await?;
        for server in some {
            server.held.lock().unwrap().stands = true;
        }
    }
    Ok(())
}

/// Returns whether a real server leads, or there are no candidates.
async fn try_to_step_aside(shared: &Shared) -> Result<bool, Status> {
    let by_age = RangeRequest {
        sort_order: 1,
        sort_target: 2,
        ..folder("/election/")
    };
    let ours: HashMap<i64, Arc<Simulated>> = {
        let servers = shared.servers.read().unwrap();
        servers
            .iter()
            .map(|server| (server.held.lock().unwrap().lease, Arc::clone(server)))
            .collect()
    };
    let is_ours = |lease: i64| lease != 0 && ours.contains_key(&lease);
    let first = shared
        .store
        .range(RangeRequest {
            limit: 1,
            ..by_age.clone()
        })
        .await?;
    let waiting: Vec<_> = ours
        .values()
        .filter(|server| server.held.lock().unwrap().waits_to_stand())
        .collect();
    let Some(first) = first.kvs.first() else {
        return Ok(waiting.is_empty());
    };
    if !is_ours(first.lease) {
        shared.is_led.store(true, Ordering::Relaxed);
        stand(shared, &waiting).await?;
        return Ok(true);
    }
    let all = shared.store.range(by_age).await?.kvs;
    let Some(real) = all.iter().position(|candidate| !is_ours(candidate.lease)) else {
        return Ok(false);
    };
    for some in all[..real].chunks(MAX_OPERATIONS) {
        shared
            .store
            .transact(
                some.iter()
                    .map(|candidate| delete(candidate.key.clone()))
                    .collect(),
            )
            .await?;
        let again = some.iter().filter_map(|candidate| {
            let uuid = ours.get(&candidate.lease)?.face.uuid;
            Some(put(
                candidacy(candidate.lease),
                uuid.to_string(),
                candidate.lease,
            ))
        });
        shared.store.transact(again.collect()).await?;
    }
    Ok(false)
}
