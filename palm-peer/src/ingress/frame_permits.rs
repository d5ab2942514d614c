//! Long messages come in by turns, so that all of them together stay bounded.

use crate::sync::lock;
use palm_proto::limits::byte_semaphore::ByteSemaphore;
use std::{
    collections::HashMap,
    sync::Mutex,
    task::{Context, Poll, Waker},
};

/// The room for long messages between the strangers and the serving loop.
#[derive(Debug)]
pub(super) struct FramePermits(Mutex<Queue>);

#[derive(Debug)]
struct Queue {
    turns: ByteSemaphore,
    wakers: HashMap<u64, Waker>,
}

impl Queue {
    fn wake_next(&self) {
        if let Some(waker) = self.turns.next().and_then(|who| self.wakers.get(&who)) {
            waker.wake_by_ref();
        }
    }
}

impl FramePermits {
    /// Room for so many bytes.
    pub(super) fn new(max: u64) -> Self {
        Self(Mutex::new(Queue { turns: ByteSemaphore::new(max), wakers: HashMap::new() }))
    }

    /// Asks for room for a frame of so many bytes. When there is none, the task of `cx` is woken when it is its turn.
    pub(super) fn poll(&self, who: u64, bytes: u64, cx: &Context<'_>) -> Poll<()> {
        let mut queue = lock(&self.0);
        if !queue.turns.ask(who, bytes) {
            queue.wakers.insert(who, cx.waker().clone());
            return Poll::Pending;
        }
        queue.wakers.remove(&who);
        queue.wake_next();
        Poll::Ready(())
    }

    /// So many bytes are with the serving loop, or gone.
    pub(super) fn give_back(&self, bytes: u64) {
        let mut queue = lock(&self.0);
        queue.turns.give_back(bytes);
        queue.wake_next();
    }

    /// This one does not wait any more.
    pub(super) fn leave(&self, who: u64) {
        let mut queue = lock(&self.0);
        queue.wakers.remove(&who);
        queue.turns.leave(who);
        queue.wake_next();
    }

    /// Whether nothing is remembered of anybody.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let queue = lock(&self.0);
        queue.wakers.is_empty() && !queue.turns.are_awaited()
    }

    /// Whether somebody waits for room.
    pub(super) fn are_awaited(&self) -> bool {
        lock(&self.0).turns.are_awaited()
    }
}
