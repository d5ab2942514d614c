//! The figures of a server, from two answers to `_ping`.

use palm_peer::Bytes;
use serde_json::Value;
use std::time::Instant;

/// What a server answered.
#[derive(Debug)]
pub(super) struct Report {
    /// The instance.
    pub uuid: String,
    /// Its name.
    pub server: String,
    /// When the answer came.
    pub at: Instant,
    /// The answer, or why there is none.
    pub answer: Result<Bytes, String>,
}

impl Report {
    /// Returns the answer as JSON.
    pub(super) fn json(&self) -> Result<Value, String> {
        let answer = self.answer.as_ref().map_err(Clone::clone)?;
        serde_json::from_slice(answer).map_err(|error| format!("no JSON: {error}"))
    }
}

/// The figures of a server.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figures {
    /// The instance.
    pub uuid: String,
    /// Its name.
    pub server: String,
    /// The numbers, or why there are none.
    pub numbers: Result<Numbers, String>,
}

/// What is known of a server that answers.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Numbers {
    /// Requests and errors in a second; `None` without an earlier answer of the same process.
    pub rates: Option<(f64, f64)>,
    /// Requests since its start.
    pub requests: u64,
    /// Errors since its start.
    pub errors: u64,
    /// Half of the latest functions were faster, and 99 %, in microseconds.
    pub p50_us: Option<u64>,
    /// See `p50_us`.
    pub p99_us: Option<u64>,
    /// The functions that run.
    pub running: u64,
    /// The requests that wait for them.
    pub queued: u64,
}

impl Figures {
    /// Returns the figures of a report, with the rates since an earlier one.
    pub(super) fn of(report: &Report, before: Option<&Report>) -> Self {
        let earlier = before.and_then(|before| Some((before.at, before.json().ok()?)));
        let numbers = report.json().map(|answer| {
            let earlier = earlier.as_ref();
            let rate = |name| {
                let (at, earlier) = earlier?;
                let seconds = report.at.saturating_duration_since(*at).as_secs_f64();
                // A count that went down is that of another process.
                let count = number(&answer, name)?.checked_sub(number(earlier, name)?)?;
                (seconds > 0.0).then(|| as_float(count) / seconds)
            };
            let count = |name| number(&answer, name).unwrap_or(0);
            Numbers {
                rates: rate("requests").zip(rate("errors")),
                requests: count("requests"),
                errors: count("errors"),
                p50_us: number(&answer, "p50_us"),
                p99_us: number(&answer, "p99_us"),
                running: count("in_flight"),
                queued: count("queued"),
            }
        });
        Self {
            uuid: report.uuid.clone(),
            server: report.server.clone(),
            numbers,
        }
    }
}

pub(super) fn number(answer: &Value, name: &str) -> Option<u64> {
    answer.get(name)?.as_u64()
}

// Rates need no precision.
#[allow(clippy::cast_precision_loss)]
pub(super) fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn report(at: Instant, answer: &str) -> Report {
        Report {
            uuid: "id".into(),
            server: "text".into(),
            at,
            answer: Ok(Bytes::copy_from_slice(answer.as_bytes())),
        }
    }

    #[test]
    fn rates_are_the_difference_of_two_answers() {
        let began = Instant::now();
        let before = report(began, r#"{"requests": 100, "errors": 7}"#);
        let answer = r#"{"requests": 300, "errors": 8, "in_flight": 2, "queued": 3, "p50_us": 850, "p99_us": null}"#;
        let after = report(began + Duration::from_secs(2), answer);
        let expected = Numbers {
            rates: Some((100.0, 0.5)),
            requests: 300,
            errors: 8,
            p50_us: Some(850),
            p99_us: None,
            running: 2,
            queued: 3,
        };
        assert_eq!(Figures::of(&after, Some(&before)).numbers, Ok(expected));
        // Another process at the same address begins again, and a first answer has no rate.
        for last in [Some(&after), None] {
            let numbers = Figures::of(&before, last).numbers.expect("numbers");
            assert_eq!(numbers.rates, None);
        }
        let broken = report(began, "no json");
        assert!(Figures::of(&broken, Some(&before)).numbers.is_err());
    }
}
