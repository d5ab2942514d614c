//! The table of `status`: its content, and its layout for the width of the terminal.

mod layout;
mod width;

pub(crate) use self::width::{columns, cut};

use self::{
    layout::{Column, Extras, Layout},
    width::cut_front,
};
use crate::screen::harmless;
use palm_peer::{Record, ServerEntry, ServerStatus, Timestamp};
use std::{collections::BTreeSet, time::Duration};

/// The built-in functions that records list: every server has them.
const BUILT_IN: [&str; 6] = ["_ping", "_log_query", "get", "set", "append", "delete"];
/// The maximum width of the columns other than the last.
const WIDEST: usize = 64;
/// The minimum length of an abbreviated uuid.
const SHORTEST_ID: usize = 8;

/// One line of the table: the cell of the state stands apart, so that it can be coloured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// What is left of the state, with the space between.
    pub before: String,
    /// The cell of the state, without padding.
    pub cell: String,
    /// What is right of it, with the space between.
    pub after: String,
    /// The state that decides the colour; `None` for the headings.
    pub state: Option<ServerStatus>,
}

impl Line {
    /// Returns the line, with the state's cell coloured by `paint`.
    pub(crate) fn text(&self, paint: impl FnOnce(&str) -> String) -> String {
        format!("{}{}{}", self.before, paint(&self.cell), self.after)
    }
}

/// The room for a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// The columns of the terminal; `None` elsewhere: then nothing is cut.
    pub width: Option<usize>,
    /// Whether everything is shown, even if lines wrap.
    pub wide: bool,
}

/// The table of these entries, out of all.
pub(crate) struct Table<'a> {
    shown: &'a [&'a ServerEntry],
    all: &'a [ServerEntry],
    layout: Layout,
    extras: Extras,
    width: Option<usize>,
    id_length: usize,
    now: Timestamp,
}

impl<'a> Table<'a> {
    /// Lays out a table of `shown`, which are some of `all`: as much as there is room for.
    pub(crate) fn new(
        shown: &'a [&'a ServerEntry],
        all: &'a [ServerEntry],
        now: Timestamp,
        room: Room,
    ) -> Self {
        let mut table = Self {
            shown,
            all,
            layout: Layout::Whole,
            extras: extras(shown),
            width: room.width.filter(|_| !room.wide),
            id_length: id_length(all),
            now,
        };
        if let Some(width) = table.width {
            let fits =
                |layout: &Layout| table.layout_is(*layout).natural_width(layout.enough()) <= width;
            table.layout = Layout::ALL.into_iter().find(fits).unwrap_or(Layout::Short);
        }
        table
    }

    fn layout_is(&self, layout: Layout) -> Self {
        Self { layout, ..*self }
    }

    fn columns(&self) -> Vec<Column> {
        self.layout.columns(self.extras)
    }

    /// Returns the headings, then a line for each entry.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let columns = self.columns();
        let widths = self.widths();
        let headings = columns.iter().map(|column| column.heading().to_owned());
        let mut lines = vec![self.line(&headings.collect::<Vec<_>>(), &widths, None)];
        for entry in self.shown {
            lines.push(self.line(&self.cells(entry), &widths, Some(entry.state)));
        }
        lines
    }

    /// Returns the line below the table.
    pub(crate) fn summary(&self) -> String {
        let leader = self.all.iter().find_map(|entry| {
            let record = entry.record.as_ref().ok()?;
            (entry.state == ServerStatus::Leader).then_some((entry, &record.server))
        });
        let leader = match (leader, self.layout) {
            (None, _) => "no leader".to_owned(),
            (Some((entry, _)), Layout::Whole) => format!("{} leads", entry.name),
            (Some((entry, server)), _) => {
                let id = self.id(entry);
                format!("{server} {id} leads")
            }
        };
        let summary = summary(self.shown, &leader);
        self.width
            .map_or_else(|| summary.clone(), |width| cut(&summary, width))
    }

    /// Returns the width of the widest line if nothing is cut, except the last column to `enough`.
    fn natural_width(&self, enough: usize) -> usize {
        let widths = self.natural_widths();
        let (last, others) = widths.split_last().unwrap_or((&0, &[]));
        others.iter().map(|width| width + 2).sum::<usize>() + (*last).min(enough)
    }

    fn natural_widths(&self) -> Vec<usize> {
        let headings = self.columns().into_iter();
        let mut widths: Vec<_> = headings.map(|column| columns(column.heading())).collect();
        for entry in self.shown {
            for (width, cell) in widths.iter_mut().zip(self.cells(entry)) {
                *width = (*width).max(columns(&cell));
            }
        }
        widths
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths = self.natural_widths();
        if let Some(width) = self.width {
            Layout::shrink(&self.columns(), &mut widths, width, self.id_length);
        }
        widths
    }

    fn line(&self, cells: &[String], widths: &[usize], state: Option<ServerStatus>) -> Line {
        let (mut before, mut cell, mut after) = (String::new(), String::new(), String::new());
        let mut part = &mut before;
        let last = cells.len().saturating_sub(1);
        for (pos, (column, text)) in self.columns().iter().zip(cells).enumerate() {
            let text = match (self.width, column) {
                (None, _) => text.clone(),
                (Some(_), Column::Endpoint) => cut_front(text, widths[pos]),
                (Some(_), _) => cut(text, widths[pos]),
            };
            let padding = " ".repeat(widths[pos].saturating_sub(columns(&text)) + 2);
            if *column == Column::State {
                cell = text;
                part = &mut after;
            } else {
                part.push_str(&text);
            }
            if pos < last {
                part.push_str(&padding);
            }
        }
        after.truncate(after.trim_end().len());
        self.fitted(Line {
            before,
            cell,
            after,
            state,
        })
    }

    /// Returns the line cut to the width, for terminals too narrow for any layout.
    fn fitted(&self, line: Line) -> Line {
        let Some(width) = self.width else {
            return line;
        };
        let cell = width.saturating_sub(columns(&line.before));
        let after = cell.saturating_sub(columns(&line.cell));
        Line {
            before: cut(&line.before, width),
            cell: cut(&line.cell, cell),
            after: cut(&line.after, after),
            ..line
        }
    }

    fn cells(&self, entry: &ServerEntry) -> Vec<String> {
        let columns = self.columns().into_iter();
        columns.map(|column| self.cell(column, entry)).collect()
    }

    fn cell(&self, column: Column, entry: &ServerEntry) -> String {
        let record = entry.record.as_ref();
        match (column, record) {
            (Column::Uuid, _) => narrow(&entry.name),
            (Column::Id, _) => narrow(self.id(entry)),
            (Column::State, _) => state(entry),
            (Column::Functions | Column::OwnFunctions, Err(reason)) => brief(&reason.to_string()),
            (_, Err(_)) => "-".to_owned(),
            (Column::Server, Ok(record)) => narrow(&record.server),
            (Column::Version, Ok(record)) => label(record.version()),
            (Column::Zone, Ok(record)) => label(record.zone()),
            (Column::Tags, Ok(record)) => narrow(label(Some(&record.tags().join(","))).as_str()),
            (Column::Kind, Ok(record)) => narrow(&record.kind),
            (Column::Url, Ok(record)) => narrow(&record.endpoint()),
            (Column::Endpoint, Ok(record)) => {
                let endpoint = record.endpoint();
                narrow(endpoint.strip_prefix("tcp://").unwrap_or(&endpoint))
            }
            (Column::Pid, Ok(record)) => record.pid.to_string(),
            (Column::Age, Ok(record)) => age(record.when.age(self.now)),
            (Column::Functions, Ok(record)) => record.functions.join(","),
            (Column::OwnFunctions, Ok(record)) => own_functions(&record.functions),
        }
    }

    /// Returns the abbreviated uuid of an entry. The name of an invalid entry may be anything, and
    /// is not abbreviated.
    fn id<'e>(&self, entry: &'e ServerEntry) -> &'e str {
        match &entry.record {
            Ok(_) => entry.name.get(..self.id_length).unwrap_or(&entry.name),
            Err(_) => &entry.name,
        }
    }
}

/// Returns which columns these servers fill.
fn extras(shown: &[&ServerEntry]) -> Extras {
    let records = || shown.iter().filter_map(|entry| entry.record.as_ref().ok());
    Extras {
        version: records().any(|record| record.version().is_some()),
        zone: records().any(|record| record.zone().is_some()),
        tags: records().any(|record| !record.tags().is_empty()),
    }
}

/// Returns the state of a server: a leader may be not ready as well.
fn state(entry: &ServerEntry) -> String {
    let is_ready = entry.record.as_ref().is_ok_and(Record::is_ready);
    if entry.state == ServerStatus::Leader && !is_ready {
        "leader, not ready".to_owned()
    } else {
        entry.state.to_string()
    }
}

/// Returns a label of a record, which may be absent.
fn label(label: Option<&str>) -> String {
    label
        .filter(|label| !label.is_empty())
        .unwrap_or("-")
        .to_owned()
}

/// Returns how many characters tell all uuids apart.
fn id_length(entries: &[ServerEntry]) -> usize {
    let mut names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    let common = |pair: &[&str]| {
        let same = pair[0].bytes().zip(pair[1].bytes());
        same.take_while(|(a, b)| a == b).count() + 1
    };
    let longest = names.windows(2).map(common).max().unwrap_or(0);
    longest.max(SHORTEST_ID)
}

/// Returns the functions that not every server has.
fn own_functions(functions: &[String]) -> String {
    let own = functions.iter().map(String::as_str);
    let own: Vec<_> = own.filter(|name| !BUILT_IN.contains(name)).collect();
    if own.is_empty() {
        "-".to_owned()
    } else {
        own.join(", ")
    }
}

/// Returns why a record is invalid, cut to fit a line: the reason may quote the record.
pub(crate) fn brief(reason: &str) -> String {
    cut(&harmless(reason), 200)
}

fn narrow(text: &str) -> String {
    cut(&harmless(text), WIDEST)
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

/// Returns the line below a table of these entries.
fn summary(entries: &[&ServerEntry], leader: &str) -> String {
    let records: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.record.as_ref().ok())
        .collect();
    let broken = match entries.len() - records.len() {
        0 => String::new(),
        1 => "; 1 broken record".to_owned(),
        more => format!("; {more} broken records"),
    };
    if records.is_empty() {
        return format!("No servers in the mesh{broken}");
    }
    let names: BTreeSet<_> = records.iter().map(|record| &record.server).collect();
    let configured = records.iter().filter(|record| record.configured).count();
    let waiting = records.len() - configured;
    let not_ready = match records.iter().filter(|record| !record.is_ready()).count() {
        0 => String::new(),
        count => format!(", {count} not ready"),
    };
    format!(
        "{} of {}: {configured} configured, {waiting} waiting{not_ready}; {leader}{broken}",
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
