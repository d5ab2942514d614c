//! A watch that does not end.

use std::{collections::BTreeMap, panic::resume_unwind, time::Instant};

use tokio::sync::mpsc;

use super::{
    Etcd,
    target::{NEWS_IN_LINE, Target},
    thread::AbortOnDrop,
    watch_task::{MAX_BACKOFF_FAILURES, WatchTask, WatchUpdate},
};
use crate::io::tasks::Name;
use palm_proto::{
    reflector::{Change, KeyValue, Reflector},
    supervision::{Decision, Supervision},
};

/// Tells what changes in a part of etcd, for as long as it is asked, and keeps a copy of that part.
///
/// Whatever breaks the watch, it lists anew, tells what differs, and goes on. Dropping it ends the watch at etcd.
pub(crate) struct Watch {
    etcd: Etcd,
    target: Target,
    mirror: Reflector,
    /// The history of what was told last.
    epoch: u64,
    news: mpsc::Receiver<WatchUpdate>,
    task: AbortOnDrop<()>,
    /// Of the task.
    panics: Supervision,
}

impl Watch {
    pub(super) fn start(etcd: Etcd, target: Target) -> Self {
        let epoch = etcd.epoch();
        let (news, task) = spawn(&etcd, &target, 0, epoch);
        Self { etcd, target, mirror: Reflector::default(), epoch, news, task, panics: Supervision::default() }
    }

    /// The next change. Never ends and never fails; while etcd is away it waits. Cancel safe.
    pub(crate) async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.mirror.next_change() {
                if self.mirror.take_proof() {
                    let evidence = format!("{} is in an older state than before", self.target.key());
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

    /// The copy: exactly what the changes given out by [`Watch::next`] so far make it.
    pub(crate) fn items(&self) -> &BTreeMap<String, KeyValue> {
        self.mirror.items()
    }

    /// Restarts the task that feeds the watch. It ends only by a panic, and a watch never ends. After the third panic within a
    /// minute it panics in the reader's task, which is supervised.
    fn revive(&mut self) {
        if matches!(self.panics.failed(Instant::now(), 0.0), Decision::GiveUp(_)) {
            resume_unwind(Box::new("the task that feeds a watch panicked three times within a minute"));
        }
        (self.news, self.task) = spawn(&self.etcd, &self.target, MAX_BACKOFF_FAILURES, self.epoch);
        self.mirror.interrupt("the watch's own task panicked, which is a bug of PALM's".to_owned());
    }
}

/// Feeds a watch from a task on etcd's thread, so that the stream is read even while the reader is not there.
fn spawn(etcd: &Etcd, target: &Target, failures: u32, epoch: u64) -> (mpsc::Receiver<WatchUpdate>, AbortOnDrop<()>) {
    let (sender, news) = mpsc::channel(NEWS_IN_LINE);
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
