//! What the dispatch loop has sent over a native connection and the connection's writer has
//! not begun to write.
//!
//! Its length is bounded by [flow control](palm_proto::limits::flow_control), which is asked before
//! anything is put into it.

use crate::{io::zmq::Frames, sync::lock};
use bytes::Bytes;
use palm_proto::zmtp::messages::Batch;
use std::sync::Mutex;

/// The queue of one connection; closed with it.
#[derive(Debug, Default)]
pub(super) struct Outbox(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    batch: Batch,
    closed: bool,
}

impl Outbox {
    /// Queues a message.
    pub(super) fn push(&self, frames: &Frames) {
        self.put(|batch| batch.push(frames));
    }

    /// Queues a message of a header and a payload.
    pub(super) fn push_pair(&self, header: &[u8], payload: &Bytes) {
        self.put(|batch| batch.push_pair(header, payload));
    }

    fn put(&self, put: impl FnOnce(&mut Batch)) {
        let mut queue = lock(&self.0);
        if !queue.closed {
            put(&mut queue.batch);
        }
    }

    /// Moves everything that is queued into an empty batch.
    pub(super) fn take(&self, batch: &mut Batch) {
        std::mem::swap(&mut lock(&self.0).batch, batch);
    }

    /// Drops everything that is queued, and what comes from now on.
    pub(super) fn close(&self) {
        *lock(&self.0) = Queue {
            batch: Batch::default(),
            closed: true,
        };
    }
}
