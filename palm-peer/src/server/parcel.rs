//! A message on its way to another server, and where its answer goes.

use crate::io::zmq::Connection;
use bytes::Bytes;
use palm_proto::types::message::{CallFailure, Request, Rerouted};
use std::time::Instant;
use uuid::Uuid;

/// Where an answer goes, with what it must repeat.
#[derive(Debug, Clone)]
pub(super) struct ReplyTo {
    /// The connection that it was asked over.
    pub(super) connection: Connection,
    /// Whose message it is, if another server passed it on: the answer goes to the client itself.
    pub(super) client: Option<Uuid>,
    /// A REQ socket puts an empty frame first, and wants it back.
    pub(super) delimiter: bool,
    pub(super) job: Option<Uuid>,
    pub(super) idx: Option<u64>,
    pub(super) stage: usize,
}

impl ReplyTo {
    pub(super) fn new(connection: Connection, delimiter: bool) -> Self {
        Self { connection, client: None, delimiter, job: None, idx: None, stage: 0 }
    }

    /// Has the answer repeat these numbers of the request.
    pub(super) fn repeat(&mut self, job: Option<Uuid>, idx: Option<u64>, stage: usize) {
        self.job = job;
        self.idx = idx;
        self.stage = stage;
    }
}

/// A message on its way to another server.
pub(crate) struct Parcel {
    /// Where to answer when it cannot be forwarded.
    pub(super) to: ReplyTo,
    pub(super) request: Request,
    pub(super) payload: Bytes,
    pub(super) deadline: Instant,
}

impl Parcel {
    /// About how many bytes it takes.
    pub(super) fn size(&self) -> usize {
        let names = self.request.pipeline.iter().chain(&self.request.cache).map(String::len).sum::<usize>();
        size_of::<Self>()
            + self.payload.len()
            + names
            + size_of_val(&*self.request.route)
            + size_of_val(&*self.request.avoid)
    }
}

/// What the client is told of a message that was not passed on as its route said: where it went, or why it could not be passed on.
pub(super) struct Notice {
    pub(super) to: ReplyTo,
    pub(super) outcome: Result<Rerouted, CallFailure>,
}
