//! The running functions, and the bytes of their payloads.

use super::task::Completion;
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use palm_proto::limits::fair_queue::Amount;
use std::future::pending;

/// The running functions.
pub(super) struct ActiveCalls {
    functions: FuturesUnordered<BoxFuture<'static, Completion>>,
    /// The bytes of their payloads.
    bytes: usize,
    max: Amount,
}

impl ActiveCalls {
    /// Creates it empty, with these limits. The last function to start may exceed the bytes.
    pub(super) fn new(max: Amount) -> Self {
        Self {
            functions: FuturesUnordered::new(),
            bytes: 0,
            max,
        }
    }

    /// Returns their number.
    pub(super) fn len(&self) -> usize {
        self.functions.len()
    }

    /// Returns the bytes of their payloads.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether one more may start.
    pub(super) fn has_room(&self) -> bool {
        self.functions.is_empty()
            || (self.functions.len() < self.max.items && self.bytes < self.max.bytes)
    }

    /// Adds one that has started, with this many bytes of payload, which are released
    /// when it finishes.
    pub(super) fn push(&mut self, function: BoxFuture<'static, Completion>, bytes: usize) {
        self.bytes += bytes;
        self.functions.push(function);
    }

    /// Waits until one of them has ended; forever when there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Completion {
        let Some(finished) = self.functions.next().await else {
            return pending().await;
        };
        self.bytes -= finished.bytes;
        finished
    }
}
