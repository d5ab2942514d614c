//! The table of `stats`.

use super::figures::{Figures, Numbers};
use crate::{
    screen::harmless,
    table::{columns, counted, cut},
};

/// The headings; the first two columns are on the left, the others on the right.
const HEADINGS: [&str; 10] = [
    "SERVER", "ID", "REQ/S", "ERR/S", "P50", "P99", "RUN", "QUEUE", "REQUESTS", "ERRORS",
];
/// The minimum width of the names of servers.
const NAME_AT_LEAST: usize = 8;
/// The length of an abbreviated uuid.
const ID_LENGTH: usize = 8;
/// The blocks of a sparkline.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Returns the headings, a line for each server, and the sum; cut to `width` columns.
pub(super) fn lines(figures: &[Figures], width: Option<usize>) -> Vec<String> {
    if figures.is_empty() {
        return vec![sum(figures)];
    }
    let mut lines = table(figures, HEADINGS.len(), width);
    lines.push(sum(figures));
    if let Some(width) = width {
        for line in &mut lines {
            *line = cut(line, width);
        }
    }
    lines
}

/// The columns without the sums since the start.
pub(super) const WITHOUT_SUMS: usize = HEADINGS.len() - 2;

/// Returns the headings, and a line for each server, with the first `count` columns.
pub(super) fn table(figures: &[Figures], count: usize, width: Option<usize>) -> Vec<String> {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(figures.iter().map(cells));
    let widest = |column: usize| {
        let cells = rows.iter().map(|row| columns(&row[column]));
        cells.max().unwrap_or(0)
    };
    let mut widths: Vec<_> = (0..count.min(HEADINGS.len())).map(widest).collect();
    let others = widths[1..].iter().map(|width| width + 2).sum::<usize>();
    if let Some(width) = width {
        widths[0] = widths[0].min(width.saturating_sub(others).max(NAME_AT_LEAST));
    }
    let mut lines: Vec<_> = rows
        .iter()
        .map(|row| line(row, &widths, |column| column < 2))
        .collect();
    for (line, figures) in lines[1..].iter_mut().zip(figures) {
        if let Err(reason) = &figures.numbers {
            let start: usize = widths[..2].iter().map(|width| width + 2).sum();
            *line = format!("{}{}", cut_at(line, start), harmless(reason));
        }
    }
    lines
}

/// Returns the beginning of a line, up to a column at which a cell begins.
fn cut_at(line: &str, column: usize) -> String {
    let mut cut = cut(line, column + 1);
    cut.pop();
    cut
}

/// Returns a line of a table. The columns that are not `left` are on the right; only the last one on
/// the left has no padding.
pub(super) fn line<const N: usize>(
    cells: &[String; N],
    widths: &[usize],
    left: impl Fn(usize) -> bool,
) -> String {
    let mut line = String::new();
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let cell = cut(cell, *width);
        let padding = " ".repeat(width.saturating_sub(columns(&cell)));
        if column > 0 {
            line.push_str("  ");
        }
        match left(column) {
            true if column + 1 == N => line.push_str(&cell),
            true => line.extend([cell, padding]),
            false => line.extend([padding, cell]),
        }
    }
    line
}

fn cells(figures: &Figures) -> [String; HEADINGS.len()] {
    let numbers = figures.numbers.clone().unwrap_or_default();
    let id = figures.uuid.get(..ID_LENGTH).unwrap_or(&figures.uuid);
    let (requests, errors) = numbers.rates.unzip();
    [
        harmless(&figures.server),
        harmless(id),
        rate(requests),
        rate(errors),
        duration(numbers.p50_us),
        duration(numbers.p99_us),
        numbers.running.to_string(),
        numbers.queued.to_string(),
        numbers.requests.to_string(),
        numbers.errors.to_string(),
    ]
}

/// Returns the sum of the servers that answer.
pub(super) fn sum(figures: &[Figures]) -> String {
    let known = figures
        .iter()
        .filter_map(|figures| figures.numbers.as_ref().ok());
    let known: Vec<&Numbers> = known.collect();
    if figures.is_empty() {
        return "No servers can be called".to_owned();
    }
    let total = |of: fn(&Numbers) -> Option<f64>| {
        known.iter().filter_map(|numbers| of(numbers)).sum::<f64>()
    };
    let silent = match figures.len() - known.len() {
        0 => String::new(),
        silent => format!("; {silent} without an answer"),
    };
    format!(
        "{}: {} requests/s, {} errors/s, {} running, {} queued{silent}",
        counted(figures.len(), "server"),
        rate(Some(total(|numbers| numbers.rates.map(|rates| rates.0)))),
        rate(Some(total(|numbers| numbers.rates.map(|rates| rates.1)))),
        known.iter().map(|numbers| numbers.running).sum::<u64>(),
        known.iter().map(|numbers| numbers.queued).sum::<u64>(),
    )
}

pub(super) fn rate(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate < 0.05 => "0".to_owned(),
        Some(rate) if rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => format!("{rate:.0}"),
    }
}

/// Returns a duration in three digits: `850µs`, `12.3ms`, `1.20s`.
// Three digits need no precision.
#[allow(clippy::cast_precision_loss)]
pub(super) fn duration(micros: Option<u64>) -> String {
    let Some(micros) = micros else {
        return "-".to_owned();
    };
    let millis = micros as f64 / 1000.0;
    match micros {
        0..1000 => format!("{micros}µs"),
        1000..10_000 => format!("{millis:.2}ms"),
        10_000..100_000 => format!("{millis:.1}ms"),
        100_000..1_000_000 => format!("{millis:.0}ms"),
        _ => format!("{:.2}s", millis / 1000.0),
    }
}

/// Returns the latest of these values as a sparkline of at most `width` columns, whose highest
/// block is the largest of them.
// The height of a block needs no precision, and is one of eight.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn sparkline(values: impl DoubleEndedIterator<Item = f64>, width: usize) -> String {
    let mut latest: Vec<_> = values.rev().take(width).collect();
    latest.reverse();
    let max = latest.iter().copied().fold(0.0, f64::max);
    let block = |value: f64| {
        if max <= 0.0 {
            return BLOCKS[0];
        }
        let height = (value / max * 7.0).round().clamp(0.0, 7.0) as usize;
        BLOCKS.get(height).copied().unwrap_or(' ')
    };
    latest.into_iter().map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(server: &str, numbers: Result<Numbers, String>) -> Figures {
        Figures {
            uuid: "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4".into(),
            server: server.into(),
            numbers,
        }
    }

    fn some() -> [Figures; 3] {
        let busy = Numbers {
            rates: Some((1547.3, 0.5)),
            requests: 1_234_567,
            errors: 89,
            p50_us: Some(850),
            p99_us: Some(12_345),
            running: 16,
            queued: 3,
        };
        [
            figures("printf", Ok(Numbers::default())),
            figures("text", Ok(busy)),
            figures("text", Err("timed_out: no answer within 2 s".into())),
        ]
    }

    #[test]
    fn the_figures_of_all_servers_fit_80_columns() {
        assert_eq!(
            lines(&some(), Some(80)),
            [
                "SERVER  ID        REQ/S  ERR/S    P50     P99  RUN  QUEUE  REQUESTS  ERRORS",
                "printf  e5cd88f7      -      -      -       -    0      0         0       0",
                "text    e5cd88f7   1547    0.5  850µs  12.3ms   16      3   1234567      89",
                "text    e5cd88f7  timed_out: no answer within 2 s",
                "3 servers: 1547 requests/s, 0.5 errors/s, 16 running, 3 queued; 1 without an an…",
            ]
        );
        let long = [figures(&"name".repeat(30), Ok(Numbers::default()))];
        for line in lines(&long, Some(80)) {
            assert!(columns(&line) <= 80, "{line}");
        }
        assert_eq!(lines(&[], Some(80)), ["No servers can be called"]);
    }

    #[test]
    fn a_sparkline_shows_the_latest_values() {
        for (values, width, line) in [
            (&[][..], 5, ""),
            (&[0.0, 0.0], 5, "▁▁"),
            (&[0.0, 7.0, 3.5], 5, "▁█▅"),
            (&[100.0, 1.0, 2.0], 2, "▅█"),
        ] {
            assert_eq!(sparkline(values.iter().copied(), width), line, "{values:?}");
        }
    }

    #[test]
    fn durations_have_three_digits() {
        for (micros, text) in [
            (0, "0µs"),
            (999, "999µs"),
            (1000, "1.00ms"),
            (12_345, "12.3ms"),
            (123_456, "123ms"),
            (1_234_567, "1.23s"),
        ] {
            assert_eq!(duration(Some(micros)), text);
        }
        assert_eq!(duration(None), "-");
    }
}
