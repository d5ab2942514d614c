//! What the door has seen: read by `_ping`, and said in the log.

use crate::sync::lock;
use palm_proto::{limits::log_throttle::LogThrottle, zmtp::RejectReason};
use serde_json::{Map, Value, json};
use std::{
    io,
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// Of how many addresses a refusal is logged within a minute. A stranger may have any number of them.
const MAX_STRANGERS: usize = 8;

/// Counts connections and refusals.
#[derive(Debug)]
pub(crate) struct IngressMetrics {
    open: AtomicU64,
    entered: AtomicU64,
    refused: [AtomicU64; RejectReason::ALL.len()],
    /// The strangers whose refusal was logged.
    strangers: Mutex<LogThrottle<IpAddr>>,
    /// For faults of our own, which strangers that are written of must not crowd out; `None` is a pause in accepting.
    own_faults: Mutex<LogThrottle<Option<RejectReason>>>,
    paused: AtomicU64,
    panicked: AtomicU64,
}

impl Default for IngressMetrics {
    fn default() -> Self {
        Self {
            open: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            refused: Default::default(),
            strangers: Mutex::new(LogThrottle::with_max_keys(MAX_STRANGERS)),
            own_faults: Mutex::default(),
            paused: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
        }
    }
}

impl IngressMetrics {
    /// Counts a pause in accepting, and writes of it unless that was done in the last minute.
    pub(crate) fn pause(&self, why: &str) {
        self.paused.fetch_add(1, Ordering::Relaxed);
        if let Some(suppressed) = lock(&self.own_faults).should_log(None, Instant::now()) {
            log::warn!("no connection is accepted for now: {why}{suppressed}");
        }
    }

    /// Says that the inner socket did not work and is made anew, unless that was said in the last minute.
    pub(crate) fn reopen(&self, why: &io::Error) {
        if let Some(suppressed) = lock(&self.own_faults).should_log(Some(RejectReason::Internal), Instant::now()) {
            log::warn!("the inner socket does not work any more, and is opened anew: {why}{suppressed}");
        }
    }

    /// How often accepting paused.
    pub(crate) fn pauses(&self) -> u64 {
        self.paused.load(Ordering::Relaxed)
    }

    /// Counts a connection that ended by a panic of ours.
    pub(crate) fn panicked(&self) {
        self.panicked.fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections ended so.
    pub(crate) fn panics(&self) -> u64 {
        self.panicked.load(Ordering::Relaxed)
    }

    /// Counts a connection that was let in.
    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of one that was let in.
    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a connection that goes on to `ZeroMQ`.
    pub(crate) fn entered(&self) {
        self.entered.fetch_add(1, Ordering::Relaxed);
    }

    /// How many went on to `ZeroMQ`, ever: no byte of any other did.
    pub(crate) fn entries(&self) -> u64 {
        self.entered.load(Ordering::Relaxed)
    }

    /// Counts a refusal, and writes of it, with these words if there are any, unless this address, or too many others,
    /// were written of in the last minute. A fault of our own is logged once a minute for all addresses. One that ends early is only counted: health
    /// checks that connect and close do so all day.
    pub(crate) fn refuse(&self, reason: RejectReason, address: IpAddr, message: &str) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
        let (why, name) = (reason.to_string(), reason.name());
        let why = if message.is_empty() { &why } else { message };
        if let Some(remedy) = reason.remedy() {
            if let Some(suppressed) = lock(&self.own_faults).should_log(Some(reason), Instant::now()) {
                log::warn!(
                    "a connection from {address} cannot be served, by no fault of its own: {why} ({name}); \
                     {remedy}{suppressed}"
                );
            }
        } else if reason != RejectReason::ClosedEarly
            && let Some(suppressed) = lock(&self.strangers).should_log(address, Instant::now())
        {
            log::warn!("refused a connection from {address}: {why} ({name}){suppressed}");
        }
    }

    /// How many connections are open.
    pub(crate) fn connections(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// How many were refused, by kind; kinds that never came are absent.
    pub(crate) fn refused(&self) -> Value {
        let counts =
            RejectReason::ALL.iter().map(|kind| (kind.name(), self.refused[*kind as usize].load(Ordering::Relaxed)));
        let seen = counts.filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), json!(count)));
        Value::Object(seen.collect::<Map<_, _>>())
    }
}
