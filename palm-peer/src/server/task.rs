//! What is known of a request on its way through the serving loop.

use super::{
    definition::FunctionOptions,
    function_stats::FunctionStats,
    functions::FunctionResult,
    parcel::ReplyTo,
    slot::{Slot, SlotSender},
};
use crate::{
    ingress::Connection,
    io::spans::Span,
    server::message::{Function, Message},
};
use futures::FutureExt as _;
use palm_proto::{
    limits::run_queue::Lane,
    types::message::{CallErrorKind, CallFailure, Request},
};
use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// A request that is to be run.
pub(super) struct Task {
    /// The connection of its client, if that is known, or that it came over:
    /// connections take turns.
    pub(super) from: Connection,
    pub(super) to: ReplyTo,
    pub(super) callee: Callee,
    pub(super) message: Message,
    pub(super) onward: Option<NextStage>,
}

/// The function of a request.
pub(super) struct Callee {
    pub(super) function: Function,
    pub(super) options: FunctionOptions,
    pub(super) lane: Lane,
    /// Its counters; none for one that is built in.
    pub(super) stats: Option<Arc<FunctionStats>>,
}

impl Task {
    /// Returns what is to run, and what is known of the request meanwhile.
    pub(super) fn begin(mut self, began: Instant, left: &SlotSender) -> (Begun, StartedTask) {
        let callee = self.callee;
        let span = match &callee.stats {
            Some(stats) => {
                stats.began();
                self.to.span.function(stats.name())
            }
            None => Span::none(),
        };
        let function = traced(callee.function, &span);
        let end = End::new(self.message.deadline, callee.options, began);
        self.message.deadline = end.at;
        let mut started = StartedTask {
            to: self.to,
            bytes: self.message.payload.len(),
            lane: callee.lane,
            began,
            slot: None,
            stats: callee.stats,
            onward: self.onward,
            span,
        };
        let mut slot = None;
        if callee.options.blocking {
            slot = started.take_slot(left);
            self.message.slot.clone_from(&started.slot);
        }
        let begun = Begun {
            function,
            message: self.message,
            only_waits: callee.options.only_waits,
            end,
            slot,
        };
        (begun, started)
    }
}

/// Returns the function with this as the current span wherever it runs.
fn traced(function: Function, span: &Span) -> Function {
    if span.is_none() {
        return function;
    }
    let span = span.clone();
    Arc::new(move |message| {
        let running = span.in_scope(|| function(message));
        span.clone().instrument(running).boxed()
    })
}

/// A function that starts.
pub(super) struct Begun {
    pub(super) function: Function,
    pub(super) message: Message,
    pub(super) only_waits: bool,
    pub(super) end: End,
    /// Its place, if it is limited or may run on after its end.
    pub(super) slot: Option<Arc<Slot>>,
}

/// When a function must have ended, and what its caller is told if it has not.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) at: Instant,
    /// The timeout of the function, if it passes before the caller's deadline.
    timeout: Option<Duration>,
    blocking: bool,
}

impl End {
    fn new(deadline: Instant, options: FunctionOptions, began: Instant) -> Self {
        let own = options.timeout.map(|timeout| (began + timeout, timeout));
        let own = own.filter(|(end, _)| *end < deadline);
        Self {
            at: own.map_or(deadline, |(end, _)| end),
            timeout: own.map(|(_, timeout)| timeout),
            blocking: options.blocking,
        }
    }

    pub(super) fn timed_out(&self) -> CallFailure {
        let within = match self.timeout {
            Some(timeout) => format!("within its timeout of {timeout:?}"),
            None => "before the deadline".to_owned(),
        };
        let more = if self.blocking {
            "; it blocks, so it cannot be stopped, and runs on"
        } else {
            ""
        };
        let text = format!("the function did not end {within}{more}");
        CallFailure::new(CallErrorKind::TimedOut, text)
    }
}

/// A request whose function runs.
pub(super) struct StartedTask {
    to: ReplyTo,
    /// How many bytes the function was given.
    pub(super) bytes: usize,
    pub(super) lane: Lane,
    pub(super) began: Instant,
    /// Its place, for as long as the function runs.
    slot: Option<Weak<Slot>>,
    stats: Option<Arc<FunctionStats>>,
    onward: Option<NextStage>,
    /// The span of the function.
    span: Span,
}

impl StartedTask {
    /// Creates the place for it to run in, if it has none.
    pub(super) fn take_slot(&mut self, left: &SlotSender) -> Option<Arc<Slot>> {
        let stats = self.stats.as_ref().filter(|_| self.slot.is_none())?;
        let slot = Slot::new(self.lane, left.clone(), Arc::clone(stats));
        self.slot = Some(Arc::downgrade(&slot));
        Some(slot)
    }

    /// Returns whether its place is left by its [`Slot`].
    pub(super) fn has_slot(&self) -> bool {
        self.slot.is_some()
    }

    /// The function has ended, or is no longer waited for.
    pub(super) fn completed(self, result: FunctionResult, now: Instant) -> Completion {
        self.span.ended(result.as_ref());
        if result.is_err()
            && let Some(slot) = self.slot.and_then(|slot| slot.upgrade())
        {
            slot.set_overdue();
        }
        Completion {
            to: self.to,
            result,
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
    pub(super) took: Duration,
    pub(super) stats: Option<Arc<FunctionStats>>,
    pub(super) onward: Option<NextStage>,
}
