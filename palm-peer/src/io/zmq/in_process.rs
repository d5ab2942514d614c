//! Requests from within the process to a router, without a socket: each is a connection of its own.

use super::{Connection, Frames, RouterEvent};
use crate::sync::lock;
use futures::channel::{mpsc, oneshot};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// Sends requests to a router in this process.
#[derive(Debug)]
pub(crate) struct InProcess {
    requests: mpsc::UnboundedSender<RouterEvent>,
    replies: Replies,
    /// The number of requests so far.
    count: AtomicU64,
}

/// The requests that wait for their answers.
#[derive(Debug, Clone, Default)]
pub(super) struct Replies(Arc<Mutex<HashMap<Connection, oneshot::Sender<Frames>>>>);

impl Replies {
    /// Passes an answer on. That of a request that was given up is dropped.
    pub(super) fn deliver(&self, to: &Connection, frames: Frames) {
        let waiting = lock(&self.0).remove(to);
        if let Some(tx) = waiting {
            let _ = tx.send(frames);
        }
    }
}

/// Forgets a request when it is given up.
struct Waiting<'a>(&'a Replies, Connection);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.0.0).remove(&self.1);
    }
}

impl InProcess {
    pub(super) fn new(requests: mpsc::UnboundedSender<RouterEvent>) -> Self {
        Self {
            requests,
            replies: Replies::default(),
            count: AtomicU64::new(0),
        }
    }

    pub(super) fn replies(&self) -> Replies {
        self.replies.clone()
    }

    /// Sends a request, and returns its answer; `None` when the router is gone. Dropping the future
    /// drops the answer.
    pub(crate) async fn request(&self, frames: Frames) -> Option<Frames> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        // Longer than the identities of the ingress, so it is none of them.
        let connection = Connection::from(format!("in-process {number}"));
        let (tx, answer) = oneshot::channel();
        lock(&self.replies.0).insert(connection.clone(), tx);
        let _waiting = Waiting(&self.replies, connection.clone());
        let request = RouterEvent::Message(connection, frames);
        self.requests.unbounded_send(request).ok()?;
        answer.await.ok()
    }
}
