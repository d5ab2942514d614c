//! What a server counts about each of its functions.

use crate::{io::wall_clock, sync::lock};
use hdrhistogram::Histogram;
use palm_proto::types::{
    message::{CallErrorKind, CallFailure},
    timestamp::Timestamp,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Mutex, time::Duration};

/// After how many calls the older half of the durations is forgotten.
const SAMPLE: u64 = 1024;
/// How many significant decimal digits of a duration are kept.
const DIGITS: u8 = 2;
/// The maximum length of the message of the last error, in characters.
const MAX_ERROR_LEN: usize = 256;

/// The upper bounds of the buckets of the histogram of durations, in microseconds. They are the
/// same for all functions, so that histograms of several instances can be added.
const BOUNDS: [u64; 17] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// The counters of one function, since the server was created.
#[derive(Debug)]
pub(crate) struct FunctionStats {
    name: String,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    requests: u64,
    in_flight: u64,
    queued: u64,
    /// How many still run though their callers got an error.
    overdue: u64,
    /// How many calls were rejected before they could start.
    rejected: u64,
    /// How many calls ended in an error, by its kind, the rejected ones included.
    errors: BTreeMap<String, u64>,
    last_error: Option<LastError>,
    durations: Durations,
    histogram: Buckets,
}

/// What `_metrics` shows of a function.
#[derive(Debug)]
pub(crate) struct FunctionFigures {
    pub(crate) requests: u64,
    pub(crate) rejected: u64,
    pub(crate) in_flight: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    /// When the last error was, and its kind.
    pub(crate) last_error: Option<(Timestamp, CallErrorKind)>,
    pub(crate) durations: Buckets,
}

/// A histogram of the durations of all calls, in fixed buckets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Buckets {
    /// How many calls took at most as long as each bound, and longer than the one before; and those
    /// beyond the last.
    counts: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Buckets {
    fn record(&mut self, took: Duration) {
        // In 64 bits, of which a division takes a fraction of the time.
        let rest = u64::from(took.subsec_nanos().div_ceil(1000));
        let micros = took
            .as_secs()
            .saturating_mul(1_000_000)
            .saturating_add(rest);
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// Returns the buckets' upper bounds in seconds, and how many durations are in each.
    // The bounds are far from where a number with a fraction is not exact.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6);
        let bounds = bounds.chain([f64::INFINITY]);
        bounds.zip(self.counts).collect()
    }

    /// Returns the number of all durations.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns their sum, in seconds.
    pub(crate) fn sum(&self) -> f64 {
        self.sum.as_secs_f64()
    }
}

#[derive(Debug)]
struct LastError {
    when: Timestamp,
    kind: CallErrorKind,
    message: String,
}

impl FunctionStats {
    /// Creates the counters of a function that was not called yet.
    pub(crate) fn new(name: String) -> Self {
        let counts = Counts {
            requests: 0,
            in_flight: 0,
            queued: 0,
            overdue: 0,
            rejected: 0,
            errors: BTreeMap::new(),
            last_error: None,
            durations: Durations::new(),
            histogram: Buckets::default(),
        };
        Self {
            name,
            counts: Mutex::new(counts),
        }
    }

    /// Returns the function's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Counts a call that waits for others to end.
    pub(crate) fn queued(&self) {
        lock(&self.counts).queued += 1;
    }

    /// A call no longer waits.
    pub(crate) fn dequeued(&self) {
        lock(&self.counts).queued -= 1;
    }

    /// So many more, or fewer, calls run on after their callers got an error.
    pub(crate) fn overdue(&self, change: i64) {
        let mut counts = lock(&self.counts);
        counts.overdue = counts.overdue.saturating_add_signed(change);
    }

    /// Counts a call that starts.
    pub(crate) fn began(&self) {
        let mut counts = lock(&self.counts);
        counts.requests += 1;
        counts.in_flight += 1;
    }

    /// Counts a call that ended after `took`, with this error or none.
    pub(crate) fn ended(&self, took: Duration, failure: Option<&CallFailure>) {
        let mut counts = lock(&self.counts);
        counts.in_flight -= 1;
        counts.durations.record(took);
        counts.histogram.record(took);
        if let Some(failure) = failure {
            counts.failed(failure);
        }
    }

    /// Counts a call that was rejected before it could start.
    pub(crate) fn rejected(&self, failure: &CallFailure) {
        let mut counts = lock(&self.counts);
        counts.rejected += 1;
        counts.failed(failure);
    }

    /// Returns the counters as `_metrics` shows them.
    pub(crate) fn figures(&self) -> FunctionFigures {
        let counts = lock(&self.counts);
        let last_error = counts.last_error.as_ref();
        FunctionFigures {
            requests: counts.requests,
            rejected: counts.rejected,
            in_flight: counts.in_flight,
            errors: counts.errors.clone(),
            last_error: last_error.map(|error| (error.when, error.kind)),
            durations: counts.histogram.clone(),
        }
    }

    /// Returns the counters as `_ping` shows them.
    pub(crate) fn to_json(&self) -> Value {
        let counts = lock(&self.counts);
        let durations = counts.durations.merged();
        let quantile = |q: f64| (!durations.is_empty()).then(|| durations.value_at_quantile(q));
        let last_error = counts
            .last_error
            .as_ref()
            .map(|error| json!({"when": error.when, "kind": error.kind, "message": error.message}));
        json!({
            "requests": counts.requests,
            "in_flight": counts.in_flight,
            "queued": counts.queued,
            "overdue": counts.overdue,
            "errors": counts.errors,
            "last_error": last_error,
            "p50_us": quantile(0.5),
            "p99_us": quantile(0.99),
        })
    }
}

impl Counts {
    fn failed(&mut self, failure: &CallFailure) {
        *self.errors.entry(failure.kind.to_string()).or_default() += 1;
        self.last_error = Some(LastError {
            when: wall_clock::timestamp(),
            kind: failure.kind,
            message: failure.message.chars().take(MAX_ERROR_LEN).collect(),
        });
    }
}

/// The durations of the latest calls, of one to two times [`SAMPLE`], in microseconds.
#[derive(Debug)]
struct Durations {
    latest: Histogram<u32>,
    before: Histogram<u32>,
}

impl Durations {
    #[expect(clippy::expect_used, reason = "five digits and fewer are valid")]
    fn new() -> Self {
        let empty = Histogram::new(DIGITS).expect("a valid number of digits");
        Self {
            before: empty.clone(),
            latest: empty,
        }
    }

    fn record(&mut self, took: Duration) {
        if self.latest.len() >= SAMPLE {
            std::mem::swap(&mut self.latest, &mut self.before);
            self.latest.reset();
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // Fails only where the histogram could not grow so far, beyond any deadline.
        let _ = self.latest.record(micros);
    }

    fn merged(&self) -> Histogram<u32> {
        let mut merged = self.before.clone();
        let _ = merged.add(&self.latest);
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: CallErrorKind, message: &str) -> CallFailure {
        CallFailure::new(kind, message)
    }

    #[test]
    fn calls_errors_and_durations_are_counted() {
        let stats = FunctionStats::new("shout".to_owned());
        assert_eq!(stats.to_json()["p50_us"], Value::Null);
        for millis in [1, 2, 3] {
            stats.began();
            stats.ended(Duration::from_millis(millis), None);
        }
        stats.began();
        stats.ended(
            Duration::from_secs(1),
            Some(&failure(CallErrorKind::Failed, "no number")),
        );
        stats.rejected(&failure(CallErrorKind::Busy, "4 run"));
        stats.began();
        let shown = stats.to_json();
        assert_eq!(
            (&shown["requests"], &shown["in_flight"]),
            (&5.into(), &1.into())
        );
        assert_eq!(shown["errors"], json!({"busy": 1, "failed": 1}));
        assert_eq!(shown["last_error"]["kind"], "busy");
        let near = |name: &str, micros: u64| {
            let value = shown[name].as_u64().unwrap_or_default();
            assert!(value.abs_diff(micros) <= micros / 100, "{name}: {value}");
        };
        near("p50_us", 2000);
        near("p99_us", 1_000_000);
    }

    #[test]
    fn each_duration_is_in_the_bucket_of_the_first_bound_that_is_not_less() {
        let mut buckets = Buckets::default();
        for micros in [0, 100, 101, 30_000_000, 30_000_001] {
            buckets.record(Duration::from_micros(micros));
        }
        buckets.record(Duration::from_nanos(100_001));
        let counted: Vec<_> = buckets.buckets();
        assert_eq!((counted[0], counted[1]), ((0.0001, 2), (0.000_25, 2)));
        assert_eq!(counted[16..], [(30.0, 1), (f64::INFINITY, 1)]);
        assert_eq!(buckets.count(), 6);
        assert!((buckets.sum() - 60.000_302).abs() < 1e-5, "{buckets:?}");
    }

    #[test]
    fn old_durations_are_forgotten() {
        let mut durations = Durations::new();
        durations.record(Duration::from_secs(9));
        for _ in 0..3 * SAMPLE {
            durations.record(Duration::from_micros(10));
        }
        let merged = durations.merged();
        assert_eq!(merged.max(), 10);
        assert!((SAMPLE..=2 * SAMPLE).contains(&merged.len()));
    }
}
