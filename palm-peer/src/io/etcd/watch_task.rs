//! The task behind a watch: lists, watches, and starts again whenever something breaks.

use std::{sync::Arc, time::Duration};

use etcd_client::WatchResponse;
use futures::{FutureExt, pin_mut, select_biased};
use tokio::{sync::mpsc, time::sleep};

use super::{
    connection::ConnectionId,
    convert::{event, items, revision_of},
    endpoint_pool::Pool,
    error::{EtcdError, EtcdErrorKind},
    history::{Response, member_header},
    target::{MAX_UNREAD, Target},
    watch_stream::Subscription,
};
use palm_proto::{
    backoff::Backoff,
    reflector::{Event, Listing},
    types::ids::Revision,
};

/// The waits after failures. A break of etcd's is felt by all at once, so even the first is spread
/// by chance; and a watch is back soon after etcd is.
const BACKOFF: Backoff = Backoff::full_jitter(Duration::from_millis(50), Duration::from_secs(3));

/// The number of failures at which the wait reaches its maximum.
pub(super) const MAX_BACKOFF_FAILURES: u32 = 8;

/// Waits after this many failures in a row.
async fn backoff(failures: u32) {
    if let Some(attempt) = failures.checked_sub(1) {
        sleep(BACKOFF.wait(attempt, fastrand::f64())).await;
    }
}

/// What the task on etcd's thread sends to the reader.
pub(super) enum WatchUpdate {
    Listing(Listing),
    Events(Vec<Event>),
    Interruption(String),
    /// The next listing belongs to this history.
    NewHistory(u64),
}

/// The task behind a watch.
pub(super) struct WatchTask {
    pub(super) pool: Arc<Pool>,
    pub(super) target: Target,
    pub(super) news: mpsc::Sender<WatchUpdate>,
    /// The number of failures in a row.
    pub(super) failures: u32,
    /// Whether the current interruption has been reported to the reader.
    pub(super) stale_reported: bool,
    /// etcd's history that the reader is in.
    pub(super) epoch: u64,
}

/// Why a round ended.
enum WatchEnd {
    /// The reader is gone.
    Unread,
    /// The watch broke, and must be started again.
    Broken(String),
}

/// An open watch.
struct Stream {
    place: ConnectionId,
    answers: Subscription,
}

impl WatchTask {
    pub(super) async fn run(mut self) {
        loop {
            backoff(self.failures).await;
            let WatchEnd::Broken(reason) = self.round().await else {
                return;
            };
            self.failures = self.failures.saturating_add(1);
            if !self.stale_reported {
                if self
                    .news
                    .send(WatchUpdate::Interruption(reason))
                    .await
                    .is_err()
                {
                    return;
                }
                self.stale_reported = true;
            }
        }
    }

    /// Lists, then watches from the next revision on, until something breaks.
    async fn round(&mut self) -> WatchEnd {
        let result = async {
            let listing = self.list().await?;
            let from = Revision(listing.revision.0 + 1);
            let epoch = self.pool.history.epoch();
            if epoch != self.epoch {
                self.epoch = epoch;
                self.news
                    .send(WatchUpdate::NewHistory(epoch))
                    .await
                    .map_err(|_| WatchEnd::Unread)?;
            }
            self.news
                .send(WatchUpdate::Listing(listing))
                .await
                .map_err(|_| WatchEnd::Unread)?;
            self.stale_reported = false;
            let stream = self.open(from).await?;
            self.failures = 0;
            Ok(self.follow(stream).await)
        };
        result.await.unwrap_or_else(|end| end)
    }

    async fn list(&self) -> Result<Listing, WatchEnd> {
        let target = &self.target;
        let listing = self
            .pool
            .try_endpoints(|connection| async move {
                let found = connection
                    .kv()
                    .get(target.key(), Some(target.get_options()))
                    .await?;
                let listing = Listing {
                    revision: revision_of(found.header()),
                    items: items(found.kvs()),
                };
                Ok(Response::by_quorum(found.header(), listing))
            })
            .await;
        listing.map_err(|error| self.failed(&error))
    }

    /// Opens the watch and waits until etcd confirms it.
    async fn open(&self, from: Revision) -> Result<Stream, WatchEnd> {
        let target = &self.target;
        let opened = self
            .pool
            .try_endpoints(|connection| async move {
                let mut answers = connection
                    .watches
                    .watch(connection.watch(), &connection.life, target, from)
                    .await?;
                let Some(first) = answers.next().await else {
                    let reason = answers
                        .stream_ended()
                        .unwrap_or_else(|| "the stream ended at once".to_owned());
                    return Err(etcd_client::Error::WatchError(reason));
                };
                if first.canceled() {
                    return Err(etcd_client::Error::WatchError(reason_of(&first)));
                }
                Ok(Response::by_member(
                    first.header(),
                    Stream {
                        place: connection.place,
                        answers,
                    },
                ))
            })
            .await;
        opened.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &EtcdError) -> WatchEnd {
        self.pool
            .log_failure(&format!("watching {}", self.target.key()), error);
        WatchEnd::Broken(error.to_string())
    }

    /// Passes on the messages of the stream.
    async fn follow(&self, stream: Stream) -> WatchEnd {
        let Stream { place, mut answers } = stream;
        let mut epochs = self.pool.history.epochs();
        loop {
            let answer = {
                let message = answers.next().fuse();
                // A watch from a revision that the new history does not have yet would be
                // silent until then.
                let restored = epochs.wait_for(|epoch| *epoch != self.epoch).fuse();
                pin_mut!(message, restored);
                select_biased! {
                    _ = restored => return WatchEnd::Broken("etcd's history changed".to_owned()),
                    answer = message => answer,
                }
            };
            let Some(answer) = answer else {
                let Some(reason) = answers.stream_ended() else {
                    return unread();
                };
                self.pool.demote(place);
                return WatchEnd::Broken(
                    self.pool
                        .stream_failed(place, EtcdErrorKind::Unreachable, reason)
                        .to_string(),
                );
            };
            if let Err(end) = self.hand_on(place, &answer) {
                return end;
            }
        }
    }

    /// Passes on one message, or returns why the stream has ended.
    fn hand_on(&self, place: ConnectionId, answer: &WatchResponse) -> Result<(), WatchEnd> {
        if let Err(error) = self.pool.accept(place, member_header(answer.header())) {
            self.pool.demote(place);
            return Err(WatchEnd::Broken(error.to_string()));
        }
        // etcd sends nothing after this.
        if answer.canceled() {
            return Err(WatchEnd::Broken(format!(
                "etcd cancelled the watch: {}",
                reason_of(answer)
            )));
        }
        let events: Vec<Event> = answer.events().iter().filter_map(event).collect();
        if events.is_empty() {
            return Ok(());
        }
        self.news
            .try_send(WatchUpdate::Events(events))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => unread(),
                mpsc::error::TrySendError::Closed(_) => WatchEnd::Unread,
            })
    }
}

fn unread() -> WatchEnd {
    WatchEnd::Broken(format!("{MAX_UNREAD} messages of the watch were not read"))
}

/// Returns why etcd cancelled a watch.
fn reason_of(answer: &WatchResponse) -> String {
    if answer.compact_revision() > 0 {
        return format!(
            "history up to revision {} is compacted",
            answer.compact_revision()
        );
    }
    match answer.cancel_reason() {
        "" => "no reason given".to_owned(),
        reason => reason.to_owned(),
    }
}

/// Watches from this revision, without listing first, and returns what broke the watch; for tests.
#[cfg(test)]
pub(super) async fn follow_from(etcd: &super::Etcd, target: Target, from: Revision) -> String {
    let (news, _unread) = mpsc::channel(MAX_UNREAD);
    let task = WatchTask {
        pool: etcd.pool().clone(),
        target,
        news,
        failures: 0,
        stale_reported: false,
        epoch: etcd.epoch(),
    };
    let followed = etcd.spawn(crate::io::tasks::Name::Test, async move {
        match task.open(from).await {
            Ok(stream) => task.follow(stream).await,
            Err(end) => end,
        }
    });
    match followed.await {
        Ok(WatchEnd::Broken(reason)) => reason,
        Ok(WatchEnd::Unread) => "unread".to_owned(),
        Err(lost) => lost.to_string(),
    }
}
