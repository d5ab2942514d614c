//! What is known of a request on its way through the serving loop.

use super::functions::Function;
use crate::{
    facts::message::{Failure, Request},
    ports::zmq::Connection,
    server::message::Message,
};
use bytes::Bytes;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Where an answer goes, with what it must repeat.
#[derive(Debug, Clone)]
pub(super) struct ReturnAddress {
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

impl ReturnAddress {
    pub(super) fn new(connection: Connection, delimiter: bool) -> Self {
        Self { connection, client: None, delimiter, job: None, idx: None, stage: 0 }
    }
}

/// A request that is to be run.
pub(super) struct Task {
    /// The connection of its client, if that is known, or that it came over: connections take turns.
    pub(super) from: Connection,
    pub(super) to: ReturnAddress,
    pub(super) function: Function,
    pub(super) message: Message,
    pub(super) onward: Option<Onward>,
}

/// Where a result goes that is not the last stage's.
pub(super) struct Onward {
    pub(super) request: Request,
    pub(super) deadline: Instant,
}

pub(super) struct Finished {
    pub(super) to: ReturnAddress,
    pub(super) result: Result<Bytes, Failure>,
    /// How many bytes the function was given.
    pub(super) bytes: usize,
    pub(super) took: Duration,
    pub(super) onward: Option<Onward>,
}

/// A message on its way to another server.
pub struct Parcel {
    /// Who is told when it cannot be passed on.
    pub(super) to: ReturnAddress,
    pub(super) request: Request,
    pub(super) payload: Bytes,
    pub(super) deadline: Instant,
}

impl Parcel {
    /// About how many bytes it takes.
    pub(super) fn size(&self) -> usize {
        let names = self.request.pipeline.iter().chain(&self.request.cache).map(String::len).sum::<usize>();
        size_of::<Self>() + self.payload.len() + names + size_of_val(self.request.route.as_slice())
    }
}

/// A message that could not be passed on.
pub(super) struct Stuck {
    pub(super) to: ReturnAddress,
    pub(super) failure: Failure,
}
