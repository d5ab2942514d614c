//! What the door has seen: read by `_ping`, and said in the log.

use crate::{
    decisions::{admission::Quiet, zmtp::Refusal},
    drivers::lock::lock,
};
use serde_json::{Map, Value, json};
use std::{
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// Counts connections and refusals.
#[derive(Debug, Default)]
pub struct Tally {
    open: AtomicU64,
    entered: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    quiet: Mutex<Quiet>,
    /// For faults of our own, which strangers that are written of must not crowd out.
    own_faults: Mutex<Quiet<Refusal>>,
    paused: AtomicU64,
    panicked: AtomicU64,
}

impl Tally {
    /// Counts a pause in accepting, and writes of it unless that was done in the last minute.
    pub fn pause(&self, why: &str) {
        self.paused.fetch_add(1, Ordering::Relaxed);
        // No stranger has this address.
        if lock(&self.quiet).may_write(IpAddr::from([0, 0, 0, 0]), Instant::now()) {
            log::warn!("no connection is accepted for now: {why}");
        }
    }

    /// How often accepting paused.
    pub fn pauses(&self) -> u64 {
        self.paused.load(Ordering::Relaxed)
    }

    /// Counts a connection that ended by a panic of ours.
    pub fn panicked(&self) {
        self.panicked.fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections ended so.
    pub fn panics(&self) -> u64 {
        self.panicked.load(Ordering::Relaxed)
    }

    /// Counts a connection that was let in.
    pub fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of one that was let in.
    pub fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a connection that goes on to `ZeroMQ`.
    pub fn entered(&self) {
        self.entered.fetch_add(1, Ordering::Relaxed);
    }

    /// How many went on to `ZeroMQ`, ever: no byte of any other did.
    pub fn entries(&self) -> u64 {
        self.entered.load(Ordering::Relaxed)
    }

    /// Counts a refusal, and writes of it, with these words if there are any, unless this address was written of in the
    /// last minute. A fault of our own is written of once a minute, whoever met it. One that ends early is only counted: health
    /// checks that connect and close do so all day.
    pub fn refuse(&self, refusal: Refusal, address: IpAddr, words: &str) {
        self.refused[refusal as usize].fetch_add(1, Ordering::Relaxed);
        let (why, name) = (refusal.to_string(), refusal.name());
        let why = if words.is_empty() { &why } else { words };
        if let Some(remedy) = refusal.remedy() {
            if lock(&self.own_faults).may_write(refusal, Instant::now()) {
                log::warn!(
                    "a connection from {address} cannot be served, by no fault of its own: {why} ({name}); {remedy}"
                );
            }
        } else if refusal != Refusal::ClosedEarly && lock(&self.quiet).may_write(address, Instant::now()) {
            log::warn!("refused a connection from {address}: {why} ({name})");
        }
    }

    /// How many connections are open.
    pub fn connections(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// How many were refused, by kind; kinds that never came are absent.
    pub fn refused(&self) -> Value {
        let counts =
            Refusal::ALL.iter().map(|kind| (kind.name(), self.refused[*kind as usize].load(Ordering::Relaxed)));
        let seen = counts.filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), json!(count)));
        Value::Object(seen.collect::<Map<_, _>>())
    }
}
