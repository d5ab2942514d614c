//! The place of a call among those of its function, up to the true end of the function.

use super::{function_stats::FunctionStats, message::Outcome};
use futures::{FutureExt as _, channel::mpsc::UnboundedSender, future::BoxFuture};
use palm_proto::limits::run_queue::Lane;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

/// Reports the end of a function, with the lane whose place is free then.
pub(super) type SlotSender = UnboundedSender<Lane>;

/// The place of a call, which is free when this is dropped. What runs a function holds it: its future,
/// and the thread of a blocking function, which runs on after its caller has got `timed_out`.
#[derive(Debug)]
pub(crate) struct Slot {
    lane: Lane,
    left: SlotSender,
    stats: Arc<FunctionStats>,
    overdue: AtomicBool,
}

impl Slot {
    pub(super) fn new(lane: Lane, left: SlotSender, stats: Arc<FunctionStats>) -> Arc<Self> {
        Arc::new(Self {
            lane,
            left,
            stats,
            overdue: AtomicBool::new(false),
        })
    }

    /// The caller has got an error, and the function still runs.
    pub(super) fn set_overdue(&self) {
        if !self.overdue.swap(true, Ordering::Relaxed) {
            self.stats.overdue(1);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if *self.overdue.get_mut() {
            self.stats.overdue(-1);
        }
        // Without a dispatch loop nothing waits for the place.
        let _ = self.left.unbounded_send(self.lane);
    }
}

/// A function with its place, which it leaves when it is dropped.
pub(super) struct Held {
    // Dropped in this order.
    running: BoxFuture<'static, Outcome>,
    _slot: Arc<Slot>,
}

impl Held {
    pub(super) fn new(running: BoxFuture<'static, Outcome>, slot: Arc<Slot>) -> Self {
        Self {
            running,
            _slot: slot,
        }
    }
}

impl Future for Held {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.running.poll_unpin(cx)
    }
}
