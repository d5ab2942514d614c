//! A message to be forwarded, and the address of its answer.

use crate::{ingress::Connection, io::spans::Span};
use bytes::Bytes;
use palm_proto::types::{
    compact::Template,
    message::{CallFailure, Request, Rerouted},
    meta::Meta,
};
use std::{sync::Arc, time::Instant};
use uuid::Uuid;

/// The address of an answer, and the fields that it must repeat.
#[derive(Debug, Clone)]
pub(super) struct ReplyTo {
    /// The connection of the request.
    pub(super) connection: Connection,
    /// The client, if another server forwarded the message: the answer goes to the client directly.
    pub(super) client: Option<Uuid>,
    /// Whether the request began with the empty frame of a REQ socket, which the
    /// answer must repeat.
    pub(super) delimiter: bool,
    pub(super) job: Option<Uuid>,
    pub(super) idx: Option<u64>,
    pub(super) stage: usize,
    /// The metadata of the request, for its trace.
    pub(super) meta: Meta,
    /// The template of a request with a compact header: its result may be compact, and
    /// what is forwarded.
    pub(super) template: Option<Arc<Template>>,
    /// The span of the stage, which ends with its answer, or when the message is forwarded.
    pub(super) span: Span,
}

impl ReplyTo {
    /// Returns which message of whom this is, for the log.
    pub(super) fn description(&self) -> String {
        let idx = self.idx.map_or_else(String::new, |idx| format!(" {idx}"));
        let trace = self.meta.trace_id();
        let trace = trace.map_or_else(String::new, |trace| format!(", trace {trace}"));
        match self.job {
            Some(job) => format!("message{idx} of job {job}, stage {}{trace}", self.stage),
            None => format!("call{idx}{trace}"),
        }
    }

    pub(super) fn new(connection: Connection, delimiter: bool) -> Self {
        Self {
            connection,
            client: None,
            delimiter,
            job: None,
            idx: None,
            stage: 0,
            meta: Meta::new(),
            template: None,
            span: Span::none(),
        }
    }

    /// Sets the fields of the request that the answer repeats.
    pub(super) fn repeat(&mut self, job: Option<Uuid>, idx: Option<u64>, stage: usize) {
        self.job = job;
        self.idx = idx;
        self.stage = stage;
    }
}

/// A message to be forwarded to another server.
pub(crate) struct Parcel {
    /// Where to answer when it cannot be forwarded.
    pub(super) to: ReplyTo,
    pub(super) request: Request,
    pub(super) payload: Bytes,
    pub(super) deadline: Instant,
}

impl Parcel {
    /// Returns its approximate size in bytes.
    pub(super) fn size(&self) -> usize {
        let names = self
            .request
            .pipeline
            .iter()
            .chain(&self.request.cache)
            .map(String::len)
            .sum::<usize>();
        size_of::<Self>()
            + self.payload.len()
            + self.request.meta.bytes()
            + names
            + size_of_val(&*self.request.route)
            + size_of_val(&*self.request.avoid)
    }
}

/// A notice to the client about a message that was not forwarded as its route says: where it went,
/// or why it could not be forwarded.
pub(super) struct Notice {
    pub(super) to: ReplyTo,
    pub(super) outcome: Result<Rerouted, CallFailure>,
}
