//! Whether the process of a server is gone.
//!
//! A timeout proves nothing. A refused connection, or another server at its endpoint, proves the
//! process gone, but only to a process that had a link to it there. Whether others reach it is
//! asked in `witnesses`; whether a connection that stands still works, each link finds out itself.

use crate::{
    client::{
        link::{Link, NoReply},
        link_pool::{LinkPool, OPEN_WITHIN},
    },
    io::timer,
};
use bytes::Bytes;
use palm_proto::types::message::Request;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a connection may take to open, try after try, after a link ended. A process that is
/// being killed closes its connections before the port that it listens on: the first try may still
/// be let in, and never be answered.
const RECONNECT_WITHIN: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_secs(1),
];

/// The wait between these attempts.
const BETWEEN: Duration = Duration::from_millis(20);

/// How long a server may take to answer over a link that stands.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What is known of a process.
pub(crate) enum Finding {
    /// There is a link to it.
    Connected(Arc<Link>),
    /// A new link to it was opened, which is not kept yet.
    Reconnected(Arc<Link>),
    /// It is gone.
    Gone,
    /// Nothing is proven.
    Unknown,
}

/// Finds out whether a server is reached at `endpoint`, over the link of this pool
/// or else a new one.
///
/// After the end of a link, several short tries are made, so that a killed process is found gone at
/// once; a server that ends each of its links is tried less and less often.
pub(crate) async fn check(pool: &LinkPool, server: Uuid, endpoint: &str) -> Finding {
    if let Some(link) = pool.connected(server, endpoint) {
        return Finding::Connected(link);
    }
    let Some(wait) = pool.take_end(server, endpoint) else {
        return try_once(pool, server, endpoint, OPEN_WITHIN).await;
    };
    timer::sleep(wait).await;
    for time in RECONNECT_WITHIN {
        match try_once(pool, server, endpoint, time).await {
            Finding::Unknown => timer::sleep(BETWEEN).await,
            finding => return finding,
        }
    }
    Finding::Unknown
}

async fn try_once(pool: &LinkPool, server: Uuid, endpoint: &str, time: Duration) -> Finding {
    // A probe may have opened one meanwhile.
    if let Some(link) = pool.connected(server, endpoint) {
        return Finding::Connected(link);
    }
    match pool.dial(server, endpoint, time).await {
        Ok(link) => Finding::Reconnected(link),
        // Only a process that was there once can be gone; the address may be wrong.
        Err(error) if error.proves_gone() && pool.was_at(server, endpoint) => Finding::Gone,
        Err(_) => Finding::Unknown,
    }
}

/// Returns whether a server still answers over a link. The end of the link counts as an answer: it
/// is reported to those that watch the link, with whether something is lost.
pub(crate) async fn answers(server: Uuid, link: Arc<Link>) -> bool {
    let mut ping = Request::call(format!("{server}._ping"));
    let asked = link.request(&mut ping, &Bytes::new(), Instant::now() + ANSWER_WITHIN);
    let fate = link.fate();
    // A link that only this holds is not needed any more.
    drop(link);
    let Ok(reply) = asked else { return true };
    !matches!(reply.await, Err(NoReply::TimedOut)) || fate.closed_by_goodbye()
}
