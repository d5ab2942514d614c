//! The functions that run, and how much they hold.

use super::task::Completion;
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use palm_proto::limits::fair_queue::Amount;
use std::future::pending;

/// Functions under way.
pub(super) struct ActiveCalls {
    functions: FuturesUnordered<BoxFuture<'static, Completion>>,
    /// What was given to them to work on.
    bytes: usize,
    max: Amount,
}

impl ActiveCalls {
    /// None yet, and no more than this. The last to start may hold what is beyond.
    pub(super) fn new(max: Amount) -> Self {
        Self { functions: FuturesUnordered::new(), bytes: 0, max }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.functions.len()
    }

    /// Whether one more may start.
    pub(super) fn has_room(&self) -> bool {
        self.functions.is_empty() || (self.functions.len() < self.max.items && self.bytes < self.max.bytes)
    }

    /// Adds one that has started, with so many bytes to work on, which it says when it has finished.
    pub(super) fn push(&mut self, function: BoxFuture<'static, Completion>, bytes: usize) {
        self.bytes += bytes;
        self.functions.push(function);
    }

    /// Waits until one of them has ended; for ever when there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Completion {
        let Some(finished) = self.functions.next().await else { return pending().await };
        self.bytes -= finished.bytes;
        finished
    }
}
