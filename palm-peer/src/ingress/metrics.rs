//! Counters of the ingress, for `_ping`, `_metrics` and the log.

use super::connection_table::ConnectionTable;
use crate::sync::lock;
use palm_proto::{limits::log_throttle::LogThrottle, zmtp::RejectReason};
use serde_json::{Map, Value, json};
use std::{
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// For how many addresses a rejection is logged per minute: a remote peer may have
/// any number of them.
const MAX_LOGGED_ADDRESSES: usize = 8;

/// Counts connections and rejections.
#[derive(Debug)]
pub(crate) struct IngressMetrics {
    open: AtomicU64,
    entered: AtomicU64,
    refused: [AtomicU64; RejectReason::ALL.len()],
    /// Throttles the log lines about rejections, by address.
    rejections: Mutex<LogThrottle<IpAddr>>,
    /// Throttles the log lines about internal errors, separately, so that rejections cannot
    /// suppress them; `None` is a pause in accepting.
    own_faults: Mutex<LogThrottle<Option<RejectReason>>>,
    paused: AtomicU64,
    panicked: AtomicU64,
    table: OnceLock<Weak<ConnectionTable>>,
}

impl Default for IngressMetrics {
    fn default() -> Self {
        Self {
            open: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            refused: Default::default(),
            rejections: Mutex::new(LogThrottle::with_max_keys(MAX_LOGGED_ADDRESSES)),
            own_faults: Mutex::default(),
            paused: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
            table: OnceLock::new(),
        }
    }
}

impl IngressMetrics {
    /// Counts a pause in accepting, and logs it at most once a minute.
    pub(crate) fn pause(&self, why: &str) {
        self.paused.fetch_add(1, Ordering::Relaxed);
        if let Some(suppressed) = lock(&self.own_faults).should_log(None, Instant::now()) {
            log::warn!("no connection is accepted for now: {why}{suppressed}");
        }
    }

    /// Logs, at most once a minute, that the inner socket did not work and is created again.
    pub(crate) fn reopen(&self, why: &io::Error) {
        if let Some(suppressed) =
            lock(&self.own_faults).should_log(Some(RejectReason::Internal), Instant::now())
        {
            log::warn!(
                "the inner socket does not work any more, and is reopened: {why}{suppressed}"
            );
        }
    }

    /// Returns how often accepting paused.
    pub(crate) fn pauses(&self) -> u64 {
        self.paused.load(Ordering::Relaxed)
    }

    /// Counts a connection that ended by a panic.
    pub(crate) fn panicked(&self) {
        self.panicked.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many connections ended by a panic.
    pub(crate) fn panics(&self) -> u64 {
        self.panicked.load(Ordering::Relaxed)
    }

    /// Counts an accepted connection.
    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of an accepted connection.
    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a connection that continues to `ZeroMQ`.
    pub(crate) fn entered(&self) {
        self.entered.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many connections have continued to `ZeroMQ`: no byte of any other did.
    pub(crate) fn entries(&self) -> u64 {
        self.entered.load(Ordering::Relaxed)
    }

    /// Counts a rejection, and logs it, with this message if it is not empty, unless this address,
    /// or too many others, were logged in the last minute. An internal error is logged once a
    /// minute for all addresses. A connection that ends early is only counted: health checks that
    /// connect and close do so all day.
    pub(crate) fn refuse(&self, reason: RejectReason, address: IpAddr, message: &str) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
        let (why, name) = (reason.to_string(), reason.name());
        let why = if message.is_empty() { &why } else { message };
        if let Some(remedy) = reason.remedy() {
            if let Some(suppressed) =
                lock(&self.own_faults).should_log(Some(reason), Instant::now())
            {
                log::warn!(
                    "a connection from {address} cannot be served because of a local error of this server: \
                     {why} ({name}); {remedy}{suppressed}"
                );
            }
        } else if reason != RejectReason::ClosedEarly
            && let Some(suppressed) = lock(&self.rejections).should_log(address, Instant::now())
        {
            log::warn!("refused a connection from {address}: {why} ({name}){suppressed}");
        }
    }

    /// Returns how many connections are open.
    pub(crate) fn connections(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Has the bytes shown that these connections hold.
    pub(super) fn attach(&self, table: &Arc<ConnectionTable>) {
        let _ = self.table.set(Arc::downgrade(table));
    }

    /// Returns how many bytes are held of long messages on their way in, and of responses that are
    /// not read yet.
    pub(crate) fn held(&self) -> (u64, u64) {
        let table = self.table.get().and_then(Weak::upgrade);
        table.map_or((0, 0), |table| table.held())
    }

    /// Returns how many were rejected, by reason.
    pub(crate) fn rejections(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let reasons = RejectReason::ALL.iter().zip(&self.refused);
        reasons.map(|(kind, count)| (kind.name(), count.load(Ordering::Relaxed)))
    }

    /// As [`rejections`](Self::rejections), without the reasons that never occurred.
    pub(crate) fn refused(&self) -> Value {
        let seen = self
            .rejections()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| (name.to_owned(), json!(count)));
        Value::Object(seen.collect::<Map<_, _>>())
    }
}
