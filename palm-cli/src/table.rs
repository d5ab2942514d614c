//! The table of `status`: its content and layout.

use crate::screen::harmless;
use palm_peer::{ServerEntry, ServerStatus, Timestamp};
use std::{collections::BTreeSet, time::Duration};

/// The headings.
const HEADINGS: [&str; COLUMNS] = [
    "UUID",
    "SERVER",
    "KIND",
    "ENDPOINT",
    "PID",
    "AGE",
    "STATE",
    "FUNCTIONS",
];
const COLUMNS: usize = 8;
/// The column that is coloured.
const STATE: usize = 6;
/// The maximum width of the columns other than the last.
const WIDEST: usize = 64;
/// The minimum width of the last column: on a narrower terminal, lines wrap.
const NARROWEST: usize = 12;

/// One line.
pub(crate) struct Row {
    cells: [String; COLUMNS],
    /// The state that decides the colour; `None` for the headings.
    pub state: Option<ServerStatus>,
}

impl Row {
    /// Returns the line, with the state's cell coloured by `paint`, cut to `width` characters if
    /// there is a width.
    pub(crate) fn text(
        &self,
        widths: &[usize; COLUMNS],
        width: Option<usize>,
        paint: impl Fn(&str) -> String,
    ) -> String {
        let mut line = String::new();
        for (column, cell) in self.cells[..COLUMNS - 1].iter().enumerate() {
            let padding = " ".repeat(widths[column].saturating_sub(cell.chars().count()) + 2);
            let cell = if column == STATE {
                paint(cell)
            } else {
                cell.clone()
            };
            line.push_str(&cell);
            line.push_str(&padding);
        }
        let taken: usize = widths[..COLUMNS - 1].iter().map(|width| width + 2).sum();
        let left = width.map_or(usize::MAX, |width| {
            width.saturating_sub(taken).max(NARROWEST)
        });
        line.push_str(&cut(&self.cells[COLUMNS - 1], left));
        line.truncate(line.trim_end().len());
        line
    }
}

/// Returns the headings, then a row for each entry.
pub(crate) fn rows(entries: &[ServerEntry], now: Timestamp) -> Vec<Row> {
    let headings = Row {
        cells: HEADINGS.map(str::to_owned),
        state: None,
    };
    std::iter::once(headings)
        .chain(entries.iter().map(|entry| row(entry, now)))
        .collect()
}

/// Returns the width of each column.
pub(crate) fn widths(rows: &[Row]) -> [usize; COLUMNS] {
    std::array::from_fn(|column| {
        rows.iter()
            .map(|row| row.cells[column].chars().count())
            .max()
            .unwrap_or(0)
    })
}

fn row(entry: &ServerEntry, now: Timestamp) -> Row {
    let state = entry.state.to_string();
    let name = narrow(&entry.name);
    let none = || "-".to_owned();
    let cells = match &entry.record {
        Ok(record) => [
            name,
            narrow(&record.server),
            narrow(&record.kind),
            narrow(&record.endpoint()),
            record.pid.to_string(),
            age(record.when.age(now)),
            state,
            record.functions.join(","),
        ],
        Err(reason) => [
            name,
            none(),
            none(),
            none(),
            none(),
            none(),
            state,
            brief(&reason.to_string()),
        ],
    };
    Row {
        cells,
        state: Some(entry.state),
    }
}

/// Returns why a record is invalid, cut to fit a line: the reason may quote the record.
pub(crate) fn brief(reason: &str) -> String {
    cut(&harmless(reason), 200)
}

fn narrow(text: &str) -> String {
    cut(&harmless(text), WIDEST)
}

/// Returns the first `max` characters, ending in `…` if there are more.
fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars()
        .take(max.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// Returns a duration in its two largest units: `7s`, `3m05s`, `2h00m`, `4d03h`.
pub(crate) fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// Returns the line below the table.
pub(crate) fn summary(entries: &[ServerEntry]) -> String {
    let records: Vec<_> = entries
        .iter()
        .filter_map(|entry| Some((entry, entry.record.as_ref().ok()?)))
        .collect();
    let broken = match entries.len() - records.len() {
        0 => String::new(),
        1 => "; 1 broken record".to_owned(),
        more => format!("; {more} broken records"),
    };
    if records.is_empty() {
        return format!("No servers in the mesh{broken}");
    }
    let names: BTreeSet<_> = records.iter().map(|(_, record)| &record.server).collect();
    let configured = records
        .iter()
        .filter(|(_, record)| record.configured)
        .count();
    let waiting = records.len() - configured;
    let leader = records
        .iter()
        .find(|(entry, _)| entry.state == ServerStatus::Leader);
    let leader = leader.map_or_else(
        || "no leader".to_owned(),
        |(entry, _)| format!("{} leads", entry.name),
    );
    format!(
        "{} of {}: {configured} configured, {waiting} waiting; {leader}{broken}",
        counted(records.len(), "server"),
        counted(names.len(), "name")
    )
}

/// Returns `1 server`, `2 servers`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    if count == 1 {
        format!("1 {what}")
    } else {
        format!("{count} {what}s")
    }
}

#[cfg(test)]
mod tests;
