//! A watch that never ends.

use std::{collections::BTreeMap, panic::resume_unwind, time::Instant};

use tokio::sync::mpsc;

use super::{
    Etcd,
    target::{MAX_UNREAD, Target},
    thread::AbortOnDrop,
    watch_task::{MAX_BACKOFF_FAILURES, WatchTask, WatchUpdate},
};
use crate::io::tasks::Name;
use palm_proto::{
    reflector::{Change, KeyValue, Reflector},
    supervision::{Decision, Supervision},
};

/// A stream of the changes of a key or prefix, with a copy of the range.
///
/// If the watch breaks, it lists again, reports the differences, and continues. Dropping it ends
/// the watch at etcd.
pub(crate) struct Watch {
    etcd: Etcd,
    target: Target,
    mirror: Reflector,
    /// The history of the last reported change.
    epoch: u64,
    news: mpsc::Receiver<WatchUpdate>,
    task: AbortOnDrop<()>,
    /// The failures of the task.
    panics: Supervision,
}

impl Watch {
    pub(super) fn start(etcd: Etcd, target: Target) -> Self {
        let epoch = etcd.epoch();
        let (news, task) = spawn(&etcd, &target, 0, epoch);
        Self {
            etcd,
            target,
            mirror: Reflector::default(),
            epoch,
            news,
            task,
            panics: Supervision::default(),
        }
    }

    /// Returns the next change. Never ends and never fails; waits while etcd is
    /// unavailable. Cancel safe.
    pub(crate) async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.mirror.next_change() {
                if self.mirror.take_proof() {
                    let evidence =
                        format!("{} is in an older state than before", self.target.key());
                    self.etcd.pool().history.went_back(self.epoch, &evidence);
                    self.epoch = self.etcd.epoch();
                }
                return change;
            }
            match self.news.recv().await {
                Some(WatchUpdate::Listing(listing)) => self.mirror.list(listing),
                Some(WatchUpdate::Events(events)) => self.mirror.events(events),
                Some(WatchUpdate::Interruption(reason)) => self.mirror.interrupt(reason),
                Some(WatchUpdate::NewHistory(epoch)) => {
                    self.epoch = epoch;
                    self.mirror.new_history();
                }
                None => self.revive(),
            }
        }
    }

    /// Returns the copy, which reflects exactly the changes that [`Watch::next`] has
    /// returned so far.
    pub(crate) fn items(&self) -> &BTreeMap<String, KeyValue> {
        self.mirror.items()
    }

    /// Restarts the task that feeds the watch, which only ends by a panic. After the third panic
    /// within a minute it panics in the reader's task, which is supervised.
    fn revive(&mut self) {
        if matches!(self.panics.failed(Instant::now(), 0.0), Decision::GiveUp(_)) {
            resume_unwind(Box::new(
                "the task that feeds a watch panicked three times within a minute",
            ));
        }
        (self.news, self.task) = spawn(&self.etcd, &self.target, MAX_BACKOFF_FAILURES, self.epoch);
        self.mirror
            .interrupt("the watch's own task panicked, which is a bug in PALM".to_owned());
    }
}

/// Starts the task on etcd's thread that feeds a watch, so that the stream is read even while
/// the reader is busy.
fn spawn(
    etcd: &Etcd,
    target: &Target,
    failures: u32,
    epoch: u64,
) -> (mpsc::Receiver<WatchUpdate>, AbortOnDrop<()>) {
    let (sender, news) = mpsc::channel(MAX_UNREAD);
    let task = WatchTask {
        pool: etcd.pool().clone(),
        target: target.clone(),
        news: sender,
        failures,
        stale_reported: false,
        epoch,
    };
    (news, AbortOnDrop(etcd.spawn(Name::EtcdWatch, task.run())))
}
