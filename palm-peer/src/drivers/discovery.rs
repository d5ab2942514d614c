//! How a client learns what can be reached, and keeps it up to date.

use super::{client::Mesh, lock::lock};
use crate::{
    decisions::routing::Directory,
    facts::pipeline::Pipeline,
    ports::{
        etcd::{Change, Watch},
        timer,
    },
};
use futures::channel::oneshot;
use std::{
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

/// How long after the TTL the leader of a new history may take to publish what there is.
const LEADER_WITHIN: Duration = Duration::from_secs(10);

/// Follows what is published, for as long as there is a client.
pub async fn learn(
    mesh: Weak<Mesh>,
    mut watch: Watch,
    folder: String,
    tell: Arc<Mutex<Option<oneshot::Sender<()>>>>,
    trouble: Arc<Mutex<String>>,
) {
    let mut known = Known::default();
    loop {
        let change = match known.until() {
            Some(deadline) => timer::timeout_at(deadline, watch.next()).await.ok(),
            None => Some(watch.next().await),
        };
        let Some(mesh) = mesh.upgrade() else { return };
        match change {
            Some(change) => known.take_in(change, &folder, mesh.options.ttl, &trouble),
            None => known.earlier = None,
        }
        // A half-told list would hide what is there.
        if known.whole {
            mesh.update(&known.directory());
            let told = lock(&tell).take();
            if let Some(tell) = told {
                let _ = tell.send(());
            }
        }
    }
}

/// What is known of what can be reached.
#[derive(Default)]
struct Known {
    published: Directory,
    whole: bool,
    /// What could be reached before etcd's history went back, and until when that counts beside what is published. What the
    /// restored etcd lacks may be there all the same, until a leader has said so.
    earlier: Option<(Directory, Instant)>,
}

impl Known {
    fn until(&self) -> Option<Instant> {
        self.earlier.as_ref().map(|(_, until)| *until)
    }

    fn directory(&self) -> Directory {
        let mut directory = self.published.clone();
        if let Some((earlier, _)) = &self.earlier {
            directory.add_all(earlier);
        }
        directory
    }

    fn take_in(&mut self, change: Change, folder: &str, ttl: Duration, trouble: &Mutex<String>) {
        match change {
            Change::Put { current, .. } => {
                let pipeline = Pipeline::from_json(&current.value);
                if pipeline.is_none() {
                    log::warn!("{} holds nothing that can be read, and is ignored", current.key);
                }
                self.update(current.key.strip_prefix(folder).unwrap_or(&current.key), pipeline);
            }
            Change::Deleted { previous, .. } => {
                self.update(previous.key.strip_prefix(folder).unwrap_or(&previous.key), None);
            }
            Change::Listed { .. } => self.whole = true,
            Change::Interrupted { reason } => {
                self.whole = false;
                log::debug!("what can be reached may be out of date: {reason}");
                *lock(trouble) = reason;
            }
            Change::NewHistory => {
                self.earlier = Some((self.directory(), Instant::now() + ttl + LEADER_WITHIN));
                self.whole = false;
            }
        }
    }

    fn update(&mut self, server: &str, pipeline: Option<Pipeline>) {
        self.published.update(server, pipeline);
        // What changes after the listing is what a leader says now.
        if self.whole
            && let Some((earlier, _)) = &mut self.earlier
        {
            earlier.update(server, None);
        }
    }
}
