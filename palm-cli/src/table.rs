//! The table of `status`: what is in it, and how it is laid out.

use crate::screen::harmless;
use palm_peer::{ServerEntry, ServerStatus, Timestamp};
use std::{collections::BTreeSet, time::Duration};

/// The headings.
const HEADINGS: [&str; COLUMNS] = ["UUID", "SERVER", "KIND", "ENDPOINT", "PID", "AGE", "STATE", "FUNCTIONS"];
const COLUMNS: usize = 8;
/// Which column is painted.
const STATE: usize = 6;
/// The longest text that another column than the last one may have; more makes nobody wiser.
const WIDEST: usize = 64;
/// The fewest characters of the last column: below, lines wrap.
const NARROWEST: usize = 12;

/// One line.
pub(crate) struct Row {
    cells: [String; COLUMNS],
    /// What the line is painted by; `None` for the headings.
    pub state: Option<ServerStatus>,
}

impl Row {
    /// The line, with the cell of the state as `paint` makes it, at most `width` characters long where there is a width.
    pub(crate) fn text(
        &self,
        widths: &[usize; COLUMNS],
        width: Option<usize>,
        paint: impl Fn(&str) -> String,
    ) -> String {
        let mut line = String::new();
        for (column, cell) in self.cells[..COLUMNS - 1].iter().enumerate() {
            let padding = " ".repeat(widths[column].saturating_sub(cell.chars().count()) + 2);
            let cell = if column == STATE { paint(cell) } else { cell.clone() };
            line.push_str(&cell);
            line.push_str(&padding);
        }
        let taken: usize = widths[..COLUMNS - 1].iter().map(|width| width + 2).sum();
        let left = width.map_or(usize::MAX, |width| width.saturating_sub(taken).max(NARROWEST));
        line.push_str(&cut(&self.cells[COLUMNS - 1], left));
        line.truncate(line.trim_end().len());
        line
    }
}

/// The headings, then a line for each entry.
pub(crate) fn rows(entries: &[ServerEntry], now: Timestamp) -> Vec<Row> {
    let headings = Row { cells: HEADINGS.map(str::to_owned), state: None };
    std::iter::once(headings).chain(entries.iter().map(|entry| row(entry, now))).collect()
}

/// How wide each column must be.
pub(crate) fn widths(rows: &[Row]) -> [usize; COLUMNS] {
    std::array::from_fn(|column| rows.iter().map(|row| row.cells[column].chars().count()).max().unwrap_or(0))
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
        Err(reason) => [name, none(), none(), none(), none(), none(), state, brief(&reason.to_string())],
    };
    Row { cells, state: Some(entry.state) }
}

/// Why a record is broken, short enough for a line: the reason may quote the record.
pub(crate) fn brief(reason: &str) -> String {
    cut(&harmless(reason), 200)
}

fn narrow(text: &str) -> String {
    cut(&harmless(text), WIDEST)
}

/// The first `most` characters; the last of them says that there are more.
fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

/// A time in its two largest units: `7s`, `3m05s`, `2h00m`, `4d03h`.
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

/// The line below the table.
pub(crate) fn summary(entries: &[ServerEntry]) -> String {
    let records: Vec<_> = entries.iter().filter_map(|entry| Some((entry, entry.record.as_ref().ok()?))).collect();
    let broken = match entries.len() - records.len() {
        0 => String::new(),
        1 => "; 1 broken record".to_owned(),
        more => format!("; {more} broken records"),
    };
    if records.is_empty() {
        return format!("No servers in the mesh{broken}");
    }
    let names: BTreeSet<_> = records.iter().map(|(_, record)| &record.server).collect();
    let configured = records.iter().filter(|(_, record)| record.configured).count();
    let waiting = records.len() - configured;
    let leader = records.iter().find(|(entry, _)| entry.state == ServerStatus::Leader);
    let leader = leader.map_or_else(|| "nobody leads".to_owned(), |(entry, _)| format!("{} leads", entry.name));
    format!(
        "{} of {}: {configured} configured, {waiting} waiting; {leader}{broken}",
        counted(records.len(), "server"),
        counted(names.len(), "name")
    )
}

/// `1 server`, `2 servers`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests;
