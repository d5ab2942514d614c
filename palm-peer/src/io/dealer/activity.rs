//! The activity of a connection, for its liveness checks.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The activity of a connection, for its liveness checks.
#[derive(Debug)]
pub(crate) struct Activity {
    start: Instant,
    /// When bytes arrived last, in ns since `start`.
    received_at: AtomicU64,
    pong: AtomicU64,
    queued: AtomicU64,
    written: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Self {
        let [received_at, pong, queued, written] = [const { AtomicU64::new(0) }; 4];
        Self {
            start: Instant::now(),
            received_at,
            pong,
            queued,
            written,
        }
    }

    pub(super) fn received(&self) {
        let since = self.start.elapsed().as_nanos();
        self.received_at
            .store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When bytes arrived last.
    pub(crate) fn received_at(&self) -> Instant {
        self.start + Duration::from_nanos(self.received_at.load(Ordering::Relaxed))
    }

    pub(super) fn take_pong(&self, number: u64) {
        self.pong.store(number, Ordering::Relaxed);
    }

    /// Returns the number of the last PING that was answered.
    pub(crate) fn pong(&self) -> u64 {
        self.pong.load(Ordering::Relaxed)
    }

    pub(super) fn queue(&self, bytes: usize) {
        self.queued.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn write(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns how many bytes were queued so far, and how many of them the system has taken.
    pub(crate) fn sent(&self) -> (u64, u64) {
        // In this order: what is written was queued before.
        let written = self.written.load(Ordering::Relaxed);
        (self.queued.load(Ordering::Relaxed), written)
    }
}
