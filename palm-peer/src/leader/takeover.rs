//! What a new leader does about what its predecessor left.

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
/// How many bytes of records it holds at most: etcd allows 1.5 MiB by default.
const BATCH_BYTES: usize = 512 * 1024;
/// How long to wait between two of them, so that etcd has time for what is urgent.
const PACE: Duration = Duration::from_millis(20);

/// Finds out what is published; asks etcd until it answers.
pub(super) async fn published(context: &LeaderContext) -> Vec<Published> {
    let folder = context.keys.pipelines();
    let found = context.etcd.retry(&format!("reading {folder}"), BACKOFF, || context.etcd.list(&folder)).await;
    let published = found.items.into_iter().filter_map(|kv| {
        let instance = Instance::from_entry(kv.key.strip_prefix(&folder)?, &kv.value)?;
        Some(Published { instance, lease: kv.lease })
    });
    published.collect()
}

/// Writes these records, many to a transaction. Where one of a transaction has changed meanwhile, each is written alone.
pub(super) async fn vouch(context: LeaderContext, records: Vec<(Record, Revision)>) -> Vec<(Uuid, WriteOutcome)> {
    let mut ended = Vec::with_capacity(records.len());
    for records in in_parts(records) {
        let written = writes::rewrite(&context, &records).await;
        for record in &records {
            let alone = written == WriteOutcome::Conflict && records.len() > 1;
            let written = if alone { writes::rewrite(&context, std::slice::from_ref(record)).await } else { written };
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

/// Deletes what is published of a server that has no record, unless it has one again; tries until etcd does it. Says whether this
/// leader is found deposed.
pub(super) async fn withdraw(context: LeaderContext, uuid: Uuid, server: String) -> bool {
    let (context, server) = (&context, server.as_str());
    retry::until_some(BACKOFF, || try_to_withdraw(context, uuid, server)).await
}

async fn try_to_withdraw(context: &LeaderContext, uuid: Uuid, server: &str) -> Option<bool> {
    let key = context.keys.server(uuid);
    let found = context.etcd.get(&key).await;
    let found = found.inspect_err(|error| context.etcd.log_failure(&format!("reading {key}"), error)).ok()?;
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

/// Says why this leader resigns, and which servers it does not reach, if somebody else stands for election. Else it goes on as it can.
pub(super) async fn may_resign(context: LeaderContext, unreached: Vec<(Uuid, String)>) -> Option<Vec<Uuid>> {
    let places: Vec<_> = unreached.iter().map(|(uuid, endpoint)| format!("{uuid} at {endpoint}")).collect();
    let places = places.join(", ");
    match context.etcd.list_latest(&context.keys.election(), None, 2).await {
        Ok(candidates) if candidates.len() > 1 => {
            log::warn!(
                "resigning as leader: other servers reach what this one does not ({places}); it stands again once it reaches them"
            );
            Some(unreached.into_iter().map(|(uuid, _)| uuid).collect())
        }
        Ok(_) => {
            log::warn!("this leader does not reach {places}, and nobody else stands for election");
            None
        }
        Err(error) => {
            context.etcd.log_failure("looking for other candidates", &error);
            None
        }
    }
}
