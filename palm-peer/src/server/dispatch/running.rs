//! Which requests run, and what becomes of them: the part of the dispatch loop between the receipt of a
//! request and its answer.

use super::Dispatcher;
use crate::{
    io::timer,
    server::{
        functions::{self, FunctionResult, Started},
        parcel::ReplyTo,
        task::{Begun, Completion, StartedTask, Task},
    },
};
use futures::{FutureExt as _, future::FusedFuture as _};
use log::Level;
use palm_proto::types::message::{CallErrorKind, CallFailure};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// How long a request may stay in the queue after its deadline.
const SWEEP: Duration = Duration::from_millis(100);

impl Dispatcher {
    pub(super) fn admit(&mut self, task: Task) -> Result<(), CallFailure> {
        if self.state.leaving.load(Ordering::Acquire) {
            return Err(leaving());
        }
        if self.queue.has_room(task.callee.lane) {
            self.launch(task);
        } else {
            self.enqueue(task);
        }
        Ok(())
    }

    fn enqueue(&mut self, task: Task) {
        let bytes = task.message.payload.len();
        if let Some(stats) = &task.callee.stats {
            stats.queued();
        }
        for refused in self
            .queue
            .wait(task.from.clone(), task.callee.lane, task, bytes)
        {
            let text = format!(
                "{} functions run and {} requests wait",
                self.running.len(),
                self.queue.waiting().items
            );
            self.reject(&refused, CallFailure::new(CallErrorKind::Busy, text));
        }
        self.queue_changed();
    }

    /// Answers queued requests whose deadline has passed, to make room for others.
    pub(super) fn drop_overdue(&mut self) {
        let now = Instant::now();
        for overdue in self.queue.take_if(|task| task.message.deadline <= now) {
            let text = "the deadline passed before the function could start";
            self.reject(&overdue, CallFailure::new(CallErrorKind::TimedOut, text));
        }
        self.queue_changed();
    }

    /// Answers a request that waited, and whose function does not start.
    pub(super) fn reject(&mut self, task: &Task, failure: CallFailure) {
        if let Some(stats) = &task.callee.stats {
            stats.dequeued();
            stats.rejected(&failure);
        }
        self.answer(&task.to, Err(failure));
    }

    pub(super) fn queue_changed(&mut self) {
        self.state.set_queued(self.queue.waiting());
        if self.queue.waiting().items > 0 && self.sweep.is_terminated() {
            self.sweep = timer::sleep(SWEEP).fuse();
        }
    }

    /// Starts a function. Many never wait, and finish here; the others are polled with
    /// the running ones, or spawned.
    fn launch(&mut self, task: Task) {
        self.state.began();
        let (begun, mut started) = task.begin(self.now, &self.left_tx);
        let Begun {
            function,
            message,
            only_waits,
            end,
            mut slot,
        } = begun;
        let counted = slot.is_some();
        if counted {
            self.queue.started(started.lane, started.bytes);
        }
        match functions::start(&function, message, started.began) {
            Started::Ended(result) => {
                if counted {
                    self.queue.answered(started.bytes);
                }
                self.now = Instant::now();
                self.finish(started.completed(result, self.now));
            }
            Started::Waiting(running) => {
                if !counted {
                    self.queue.started(started.lane, started.bytes);
                }
                if started.lane.is_limited() {
                    slot = slot.or_else(|| started.take_slot(&self.left_tx));
                }
                let running = functions::place(&self.state.spawner, running, slot, only_waits);
                self.running.push(functions::finish(running, end), started);
                self.state.set_running_bytes(self.queue.running().bytes);
            }
        }
    }

    /// A function that waited has ended, or is no longer waited for.
    pub(super) fn end(&mut self, task: StartedTask, result: FunctionResult) {
        self.queue.answered(task.bytes);
        if !task.has_slot() {
            self.queue.left(task.lane);
        }
        self.finish(task.completed(result, self.now));
        self.start_waiting();
    }

    fn finish(&mut self, finished: Completion) {
        self.state.ended(finished.took);
        let result = functions::at_most(self.state.config.max_payload, finished.result);
        if let Some(stats) = &finished.stats {
            let failure = result.as_ref().err();
            stats.ended(finished.took, failure);
            if let Some(failure) = failure {
                self.log_failure(stats.name(), failure, &finished.to);
            }
        }
        self.complete(finished.to, result, finished.onward);
    }

    /// Starts the waiting requests that may run now.
    pub(super) fn start_waiting(&mut self) {
        // They start when the running ones are polled, not here: as many may end at once as wait.
        while let Some(task) = self.queue.pop() {
            if let Some(stats) = &task.callee.stats {
                stats.dequeued();
            }
            self.state.began();
            let (mut begun, mut started) = task.begin(Instant::now(), &self.left_tx);
            if started.lane.is_limited() {
                begun.slot = begun.slot.or_else(|| started.take_slot(&self.left_tx));
            }
            self.queue.started(started.lane, started.bytes);
            let running = functions::run(begun, self.state.spawner.clone());
            self.running.push(running, started);
        }
        self.state.set_queued(self.queue.waiting());
        self.state.set_running_bytes(self.queue.running().bytes);
    }

    /// Logs that a function failed, each function and kind of error once a minute.
    fn log_failure(&mut self, function: &str, failure: &CallFailure, to: &ReplyTo) {
        let key = (function.to_owned(), failure.kind);
        let Some(suppressed) = self.failures.should_log(key, Instant::now()) else {
            return;
        };
        let level = if failure.kind == CallErrorKind::Panicked {
            Level::Error
        } else {
            Level::Warn
        };
        log::log!(
            level,
            "{}.{function} answered {}: {} ({}){suppressed}",
            self.state.name,
            failure.kind,
            failure.message,
            to.description()
        );
    }
}

pub(super) fn leaving() -> CallFailure {
    CallFailure::new(CallErrorKind::Leaving, "this server is leaving the mesh")
}
