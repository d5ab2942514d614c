//! Indirect probes: asks other servers (witnesses) whether they reach a server that this
//! process does not.

use crate::{
    client::{
        dialer::{Dialer, OpenError},
        link::Link,
    },
    io::{
        etcd::{Etcd, EtcdError},
        hedge::hedged,
        timer,
    },
};
use bytes::Bytes;
use futures::{FutureExt as _, TryFutureExt as _, future::join_all};
use palm_proto::{
    registry::Testimony,
    types::{keys::Keys, message::Request, record::Record},
};
use serde::{Deserialize, Serialize};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The built-in function that probes another server.
pub(crate) const PROBE: &str = "_probe";

/// How many witnesses a candidate asks, and from how many servers it chooses them.
const ASKED: usize = 3;
const CHOSEN_FROM: usize = 12;

/// How long a witness waits for a connection before it opens another one beside it.
const BETWEEN: Duration = Duration::from_millis(250);

/// The answer to `_probe`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// Whether the server was reached at the endpoint in its record.
    pub reached: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Asks `witness` whether it reaches `about`, for no longer than `time`.
pub(crate) async fn ask(link: &Arc<Link>, witness: Uuid, about: Uuid, time: Duration) -> Testimony {
    let mut request = Request::call(format!("{witness}.{PROBE}"));
    request.give_time(time);
    let payload = Bytes::from(about.to_string());
    let Ok(reply) = link.request(&mut request, &payload, Instant::now() + time) else {
        return Testimony::None;
    };
    let Ok(reply) = reply.await else {
        return Testimony::None;
    };
    if reply.answer.error.is_some() {
        return Testimony::None;
    }
    match serde_json::from_slice(&reply.payload) {
        Ok(Finding { reached: true, .. }) => Testimony::Reached,
        Ok(Finding { .. }) => Testimony::NotReached,
        Err(_) => Testimony::None,
    }
}

/// Opens a link to `witness` and asks it.
pub(crate) async fn open_and_ask(
    dialer: &Dialer,
    witness: &Record,
    about: Uuid,
    time: Duration,
) -> Testimony {
    match dialer
        .open(&witness.endpoint(), witness.uuid, time / 2)
        .await
    {
        Ok(link) => ask(&link, witness.uuid, about, time).await,
        Err(_) => Testimony::None,
    }
}

/// Returns whether other servers agree that `about` cannot be reached: none of a few reaches it,
/// and at least one tried, unless there is no other server.
pub(crate) async fn agree_that_gone(
    etcd: &Etcd,
    keys: &Keys,
    dialer: &Dialer,
    about: Uuid,
    time: Duration,
) -> Result<bool, EtcdError> {
    let folder = keys.servers();
    let found = etcd.list_latest(&folder, None, CHOSEN_FROM).await?;
    let records = found
        .iter()
        .filter_map(|kv| Record::from_entry(kv.key.strip_prefix(&folder)?, &kv.value).ok());
    let mut others: Vec<Record> = records
        .filter(|record| record.configured && record.uuid != about && record.uuid != dialer.me())
        .collect();
    fastrand::shuffle(&mut others);
    others.truncate(ASKED);
    let answers = join_all(
        others
            .iter()
            .map(|witness| open_and_ask(dialer, witness, about, time)),
    )
    .await;
    let tried = answers.contains(&Testimony::NotReached);
    Ok(!answers.contains(&Testimony::Reached) && (tried || others.is_empty()))
}

/// Returns the record of a server, if it is registered.
pub(crate) async fn registered(
    etcd: &Etcd,
    keys: &Keys,
    uuid: Uuid,
) -> Result<Option<Record>, EtcdError> {
    let found = etcd.get(&keys.server(uuid)).await?;
    Ok(found.and_then(|kv| Record::from_entry(&uuid.to_string(), &kv.value).ok()))
}

/// Runs `_probe`: looks up the server's endpoint, and verifies its uuid over a new connection.
/// Fails when this process cannot find that out.
pub(crate) async fn probe(
    etcd: &Etcd,
    keys: &Keys,
    dialer: &Dialer,
    payload: &[u8],
    time: Duration,
) -> Result<Finding, String> {
    let uuid: Uuid = std::str::from_utf8(payload)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or("the payload of _probe is the uuid of a server")?;
    let record = registered(etcd, keys, uuid)
        .await
        .map_err(|error| error.to_string())?;
    let record = record.ok_or_else(|| format!("no server {uuid} is registered"))?;
    match reach(dialer, &record.endpoint(), uuid, time).await {
        Ok(()) => Ok(Finding {
            reached: true,
            reason: String::new(),
        }),
        Err(error) if error.is_local() => Err(error.to_string()),
        Err(error) => Ok(Finding {
            reached: false,
            reason: error.to_string(),
        }),
    }
}

/// Opens a connection to a server within `time`, and further ones beside it: TCP waits for a second
/// before it repeats a packet that was lost at the beginning of a connection.
async fn reach(
    dialer: &Dialer,
    endpoint: &str,
    server: Uuid,
    time: Duration,
) -> Result<(), OpenError> {
    let end = Instant::now() + time;
    let attempts: [usize; 4] = std::array::from_fn(|attempt| attempt);
    let open = |_| {
        let left = end.saturating_duration_since(Instant::now());
        dialer.open(endpoint, server, left).map_ok(drop).boxed()
    };
    let pause = || timer::sleep(BETWEEN);
    let is_proof = |error: &OpenError| error.proves_gone() || error.is_local();
    match hedged(&attempts, open, pause, is_proof).await {
        Ok(_) => Ok(()),
        Err(errors) => Err(errors
            .into_iter()
            .next_back()
            .map_or(OpenError::Silent(time), |(_, error)| error)),
    }
}
