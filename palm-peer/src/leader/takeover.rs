//! What a new leader does with its predecessor's published keys and records.

use super::{
    BACKOFF, LeaderContext,
    writes::{self, WriteOutcome},
};
use crate::io::{retry, timer};
use palm_proto::{
    registry::Published,
    types::{ids::Revision, instance::Instance, record::Record},
};
use std::time::Duration;
use uuid::Uuid;

/// How many records one transaction rewrites at most: etcd allows 128 operations by default.
pub(super) const BATCH: usize = 100;
/// How many bytes of records one transaction contains at most: etcd allows 1.5 MiB by default.
const BATCH_BYTES: usize = 512 * 1024;
/// The pause between two of these transactions, so that etcd has time for urgent requests.
const PACE: Duration = Duration::from_millis(20);

/// Reads the published keys; retries until etcd answers.
pub(super) async fn published(context: &LeaderContext) -> Vec<Published> {
    let folder = context.keys.pipelines();
    let found = context
        .etcd
        .retry(&format!("reading {folder}"), BACKOFF, || {
            context.etcd.list(&folder)
        })
        .await;
    let published = found.items.into_iter().filter_map(|kv| {
        let instance = Instance::from_entry(kv.key.strip_prefix(&folder)?, &kv.value)?;
        Some(Published {
            instance,
            lease: kv.lease,
        })
    });
    published.collect()
}

/// Writes these records, many per transaction. If one of a transaction has changed meanwhile, each
/// is written separately.
pub(super) async fn vouch(
    context: LeaderContext,
    records: Vec<(Record, Revision)>,
) -> Vec<(Uuid, WriteOutcome)> {
    let mut ended = Vec::with_capacity(records.len());
    for records in in_parts(records) {
        let written = writes::rewrite(&context, &records).await;
        for record in &records {
            let alone = written == WriteOutcome::Conflict && records.len() > 1;
            let written = if alone {
                writes::rewrite(&context, std::slice::from_ref(record)).await
            } else {
                written
            };
            ended.push((record.0.uuid, written));
        }
        timer::sleep(PACE).await;
    }
    ended
}

fn in_parts(records: Vec<(Record, Revision)>) -> Vec<Vec<(Record, Revision)>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for (record, modified) in records {
        let length = record.full_length();
        if bytes > 0 && bytes + length > BATCH_BYTES {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += length;
        if let Some(part) = parts.last_mut() {
            part.push((record, modified));
        }
    }
    parts
}

/// Deletes the published key of a server without a record, unless it has one again; retries until
/// etcd does it. Returns whether this leader is deposed.
pub(super) async fn withdraw(context: LeaderContext, uuid: Uuid, server: String) -> bool {
    let (context, server) = (&context, server.as_str());
    retry::until_some(BACKOFF, || try_to_withdraw(context, uuid, server)).await
}

async fn try_to_withdraw(context: &LeaderContext, uuid: Uuid, server: &str) -> Option<bool> {
    let key = context.keys.server(uuid);
    let found = context.etcd.get(&key).await;
    let found = found
        .inspect_err(|error| context.etcd.log_failure(&format!("reading {key}"), error))
        .ok()?;
    if let Some(kv) = &found
        && Record::from_entry(&uuid.to_string(), &kv.value).is_ok()
    {
        // Who registers withdraws what is published from before.
        return Some(false);
    }
    match writes::withdraw(context, uuid, server, found.map(|kv| kv.modified)).await {
        WriteOutcome::Done(_) => Some(false),
        WriteOutcome::Deposed => Some(true),
        WriteOutcome::Conflict | WriteOutcome::Failed => None,
    }
}

/// Logs why this leader resigns, and which servers it does not reach, if there is another
/// candidate. Otherwise it continues.
pub(super) async fn may_resign(
    context: LeaderContext,
    unreached: Vec<(Uuid, String)>,
) -> Option<Vec<Uuid>> {
    let places: Vec<_> = unreached
        .iter()
        .map(|(uuid, endpoint)| format!("{uuid} at {endpoint}"))
        .collect();
    let places = places.join(", ");
    match context
        .etcd
        .list_latest(&context.keys.election(), None, 2)
        .await
    {
        Ok(candidates) if candidates.len() > 1 => {
            log::warn!(
                "resigning as leader: other servers reach what this one does not ({places}); it campaigns again once \
                 it reaches them"
            );
            Some(unreached.into_iter().map(|(uuid, _)| uuid).collect())
        }
        Ok(_) => {
            log::warn!("this leader does not reach {places}, and there is no other candidate");
            None
        }
        Err(error) => {
            context
                .etcd
                .log_failure("looking for other candidates", &error);
            None
        }
    }
}
