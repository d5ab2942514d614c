//! The pipeliner's log: which servers clients can reach.

use super::registry::{Line, MAX_LISTED};
use crate::types::record::Record;
use log::{Level, LevelFilter};

/// Returns the list of servers as pylm prints it (docs/pylm-compatibility.md); above [`MAX_LISTED`]
/// servers at DEBUG, and empty if DEBUG is not logged.
pub fn list<'a>(
    reachable: impl IntoIterator<Item = &'a Record>,
    verbosity: LevelFilter,
) -> Vec<Line> {
    let reachable: Vec<_> = reachable.into_iter().collect();
    let level = if reachable.len() > MAX_LISTED {
        Level::Debug
    } else {
        Level::Info
    };
    if level > verbosity && !reachable.is_empty() {
        return Vec::new();
    }
    let line = |text: &str| Line::new(level, text);
    let mut servers: Vec<Line> = reachable
        .into_iter()
        .map(|record| {
            let functions: Vec<_> = record
                .functions
                .iter()
                .map(|name| format!("'{name}'"))
                .collect();
            line(&format!(
                "{}: Server {} of type {}, implements [{}]",
                record.uuid,
                record.server,
                record.kind,
                functions.join(", ")
            ))
        })
        .collect();
    let mut lines = Vec::with_capacity(servers.len() + 3);
    if servers.is_empty() {
        lines.push(Line::critical("You have no server running"));
    }
    lines.push(line("***** List of servers *****"));
    lines.append(&mut servers);
    lines.push(line("***************************"));
    lines
}

#[cfg(test)]
mod tests;
