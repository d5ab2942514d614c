//! What is known of a request on its way through the serving loop.

use super::{function_stats::FunctionStats, functions::FunctionResult, parcel::ReplyTo};
use crate::{
    ingress::Connection,
    server::message::{Function, Message},
};
use palm_proto::types::message::Request;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A request that is to be run.
pub(super) struct Task {
    /// The connection of its client, if that is known, or that it came over:
    /// connections take turns.
    pub(super) from: Connection,
    pub(super) to: ReplyTo,
    pub(super) function: Function,
    pub(super) message: Message,
    /// The counters of the function; none for one that is built in.
    pub(super) stats: Option<Arc<FunctionStats>>,
    pub(super) onward: Option<NextStage>,
}

impl Task {
    /// Returns what is to run, and what is known of the request meanwhile.
    pub(super) fn begin(self, began: Instant) -> (Function, Message, StartedTask) {
        if let Some(stats) = &self.stats {
            stats.began();
        }
        let started = StartedTask {
            to: self.to,
            bytes: self.message.payload.len(),
            began,
            stats: self.stats,
            onward: self.onward,
        };
        (self.function, self.message, started)
    }
}

/// A request whose function runs.
pub(super) struct StartedTask {
    to: ReplyTo,
    /// How many bytes the function was given.
    pub(super) bytes: usize,
    pub(super) began: Instant,
    stats: Option<Arc<FunctionStats>>,
    onward: Option<NextStage>,
}

impl StartedTask {
    /// The function has ended.
    pub(super) fn completed(self, result: FunctionResult, now: Instant) -> Completion {
        Completion {
            to: self.to,
            result,
            bytes: self.bytes,
            took: now.saturating_duration_since(self.began),
            stats: self.stats,
            onward: self.onward,
        }
    }
}

/// Where a result goes that is not the last stage's.
pub(super) struct NextStage {
    pub(super) request: Request,
    pub(super) deadline: Instant,
}

pub(super) struct Completion {
    pub(super) to: ReplyTo,
    pub(super) result: FunctionResult,
    /// How many bytes the function was given.
    pub(super) bytes: usize,
    pub(super) took: Duration,
    pub(super) stats: Option<Arc<FunctionStats>>,
    pub(super) onward: Option<NextStage>,
}
