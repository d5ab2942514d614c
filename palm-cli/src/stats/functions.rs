//! The figures of functions, from two answers of each instance to `_ping`, and their table.

use super::{
    figures::{Report, as_float, number},
    layout::{duration, line, rate},
};
use crate::{
    screen::harmless,
    table::{age, columns, cut},
};
use palm_peer::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;

/// The headings; the first and the last column are on the left, the others on the right.
const HEADINGS: [&str; 7] = [
    "FUNCTION",
    "REQ/S",
    "ERR/S",
    "P50",
    "P99",
    "RUN",
    "LAST ERROR",
];
/// The maximum width of the names of functions, where not all fits.
const NAME_AT_MOST: usize = 24;

/// The figures of a function, of all instances together.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct FunctionFigures {
    /// Its name.
    name: String,
    /// Calls that were started, and errors, in a second; `None` without earlier answers.
    rates: Option<(f64, f64)>,
    /// Half of the latest calls were faster, and 99 %, in microseconds, on the slowest instance.
    p50_us: Option<u64>,
    p99_us: Option<u64>,
    /// Calls that run.
    running: u64,
    last_error: Option<LastError>,
}

#[derive(Debug, Clone, PartialEq)]
struct LastError {
    when: Timestamp,
    kind: String,
    message: String,
}

/// Returns the figures of all functions, with the rates since earlier reports.
pub(super) fn functions(before: &[Report], reports: &[Report]) -> Vec<FunctionFigures> {
    let mut all = BTreeMap::<String, FunctionFigures>::new();
    for report in reports {
        let Ok(answer) = report.json() else { continue };
        let last = before.iter().find(|last| last.uuid == report.uuid);
        let earlier = last.and_then(|last| {
            let time = report.at.saturating_duration_since(last.at).as_secs_f64();
            Some((time, last.json().ok()?)).filter(|(time, _)| *time > 0.0)
        });
        let functions = answer.get("functions").and_then(Value::as_object);
        for (name, now) in functions.into_iter().flatten() {
            let figures = all.entry(name.clone()).or_default();
            figures.name.clone_from(name);
            figures.add(
                now,
                earlier.as_ref().and_then(|(time, earlier)| {
                    Some((*time, earlier.get("functions")?.get(name)?))
                }),
            );
        }
    }
    all.into_values().collect()
}

impl FunctionFigures {
    /// Adds those of an instance; `earlier` are those from so many seconds ago.
    fn add(&mut self, now: &Value, earlier: Option<(f64, &Value)>) {
        let rate = |count: fn(&Value) -> u64| {
            let (time, earlier) = earlier?;
            // A count that went down is that of another process.
            Some(as_float(count(now).checked_sub(count(earlier))?) / time)
        };
        let requests = |figures: &Value| number(figures, "requests").unwrap_or(0);
        if let Some((requests, failed)) = rate(requests).zip(rate(errors)) {
            let (all, all_failed) = self.rates.unwrap_or_default();
            self.rates = Some((all + requests, all_failed + failed));
        }
        self.running += number(now, "in_flight").unwrap_or(0);
        self.p50_us = self.p50_us.max(number(now, "p50_us"));
        self.p99_us = self.p99_us.max(number(now, "p99_us"));
        let last = now.get("last_error").and_then(LastError::read);
        if last.as_ref().map(|error| error.when) > self.last_error.as_ref().map(|error| error.when)
        {
            self.last_error = last;
        }
    }

    fn cells(&self, now: Timestamp) -> [String; HEADINGS.len()] {
        let (requests, errors) = self.rates.unzip();
        let last = self.last_error.as_ref().map_or_else(
            || "-".to_owned(),
            |error| {
                let age = age(error.when.age(now));
                format!("{age} ago: {}: {}", error.kind, error.message)
            },
        );
        [
            harmless(&self.name),
            rate(requests),
            rate(errors),
            duration(self.p50_us),
            duration(self.p99_us),
            self.running.to_string(),
            harmless(&last),
        ]
    }
}

fn errors(figures: &Value) -> u64 {
    let errors = figures.get("errors").and_then(Value::as_object);
    let counts = errors.into_iter().flatten().map(|(_, count)| count);
    counts.filter_map(Value::as_u64).sum()
}

impl LastError {
    fn read(value: &Value) -> Option<Self> {
        let text = |name| value.get(name)?.as_str();
        Some(Self {
            when: text("when")?.parse().ok()?,
            kind: text("kind")?.to_owned(),
            message: text("message")?.to_owned(),
        })
    }
}

/// Returns the headings, and a line for each function; cut to `width` columns. Nothing without
/// functions, as of a server that tells none.
pub(super) fn lines(
    functions: &[FunctionFigures],
    now: Timestamp,
    width: Option<usize>,
) -> Vec<String> {
    if functions.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(functions.iter().map(|function| function.cells(now)));
    let mut widths = [0; HEADINGS.len()];
    for (column, widest) in widths.iter_mut().enumerate() {
        *widest = rows
            .iter()
            .map(|row| columns(&row[column]))
            .max()
            .unwrap_or(0);
    }
    if width.is_some_and(|width| widths.iter().sum::<usize>() + 2 * HEADINGS.len() > width) {
        widths[0] = widths[0].min(NAME_AT_MOST);
    }
    let lines = rows.iter().map(|row| {
        let line = line(row, &widths, |column| {
            [0, HEADINGS.len() - 1].contains(&column)
        });
        width.map_or_else(|| line.clone(), |width| cut(&line, width))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use palm_peer::Bytes;
    use std::time::{Duration, Instant};

    fn report(uuid: &str, at: Instant, answer: &str) -> Report {
        Report {
            uuid: uuid.into(),
            server: "text".into(),
            at,
            answer: Ok(Bytes::copy_from_slice(answer.as_bytes())),
        }
    }

    fn answer(requests: u64, failed: u64, p99: u64, last: &str) -> String {
        format!(
            r#"{{"functions": {{"shout": {{"requests": {requests}, "in_flight": 2, "errors": {{"failed": {failed}, "busy": 1}},
            "last_error": {last}, "p50_us": 850, "p99_us": {p99}}}}}}}"#
        )
    }

    #[test]
    fn instances_are_added_and_fit_80_columns() {
        let began = Instant::now();
        let later = began + Duration::from_secs(2);
        let error = |second: u32, message: &str| {
            format!(
                r#"{{"when": "2026-11-27T22:10:{second:02}.5", "kind": "failed", "message": "{message}"}}"#
            )
        };
        let before = [
            report("1", began, &answer(100, 1, 7, "null")),
            report("2", began, &answer(10, 1, 7, "null")),
        ];
        let reports = [
            report("1", later, &answer(300, 3, 12_345, &error(5, "older"))),
            report(
                "2",
                later,
                &answer(110, 1, 700, &error(7, &"newer ".repeat(20))),
            ),
            report("3", later, "{}"),
        ];
        let now = "2026-11-27T22:12:12".parse().expect("a time");
        let found = functions(&before, &reports);
        assert_eq!(
            lines(&found, now, Some(80)),
            [
                "FUNCTION  REQ/S  ERR/S    P50     P99  RUN  LAST ERROR",
                "shout       150    1.0  850µs  12.3ms    4  2m04s ago: failed: newer newer newe…",
            ]
        );
        let long = [FunctionFigures {
            name: "name".repeat(30),
            ..FunctionFigures::default()
        }];
        for line in lines(&long, now, Some(80)) {
            assert!(columns(&line) <= 80, "{line}");
        }
        assert_eq!(lines(&[], now, Some(80)), [""; 0]);
    }
}
