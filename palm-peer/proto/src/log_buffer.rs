//! What a server logged since the last query: the answer to `_log_query`.

use crate::{log_history::LogHistory, types::timestamp::Timestamp};
use log::Level;
use std::{collections::VecDeque, fmt::Write as _};
use uuid::Uuid;

/// The most entries that are kept between two queries.
const MAX_ENTRIES: usize = 1000;
/// The longest message that is kept, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024;

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// When it was logged.
    pub when: Timestamp,
    /// The level.
    pub level: Level,
    /// The place in the source, as `file/line`.
    pub place: String,
    /// The message.
    pub message: String,
}

/// A bounded buffer of log lines: when full, the oldest are dropped and counted.
#[derive(Debug, Default)]
pub struct LogBuffer {
    entries: VecDeque<LogEntry>,
    dropped: u64,
    /// The same lines, and those of the leader, for readers with a cursor.
    pub history: LogHistory,
}

impl LogBuffer {
    /// Adds a line.
    pub fn push(&mut self, mut entry: LogEntry) {
        if entry.message.len() > MAX_MESSAGE_BYTES {
            let end = (0..=MAX_MESSAGE_BYTES)
                .rev()
                .find(|&pos| entry.message.is_char_boundary(pos))
                .unwrap_or(0);
            entry.message.truncate(end);
            entry.message.push('…');
        }
        if self.entries.len() == MAX_ENTRIES {
            self.entries.pop_front();
            self.dropped += 1;
        }
        self.entries.push_back(entry);
    }

    /// Takes everything since the last query, oldest first, separated by commas: one letter for a
    /// line below `level`, the full line from `level` on. If lines were dropped,
    /// `<count> dropped` comes first.
    pub fn take(&mut self, uuid: Uuid, level: Level) -> String {
        let mut parts = Vec::with_capacity(self.entries.len() + 1);
        if self.dropped > 0 {
            parts.push(format!("{} dropped", self.dropped));
            self.dropped = 0;
        }
        for entry in self.entries.drain(..) {
            parts.push(if entry.level <= level {
                full_line(&entry, uuid)
            } else {
                level_letter(entry.level).to_owned()
            });
        }
        parts.join(",")
    }
}

fn full_line(entry: &LogEntry, uuid: Uuid) -> String {
    let mut line = format!(
        "{}:{uuid}:{}:{}:",
        entry.when,
        level_name(entry.level),
        entry.place
    );
    for c in entry.message.chars() {
        match c {
            '\\' => line.push_str("\\\\"),
            ',' => line.push_str("\\,"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(line, "\\x{:02x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line
}

/// Returns the first letter of a level's name; `TRACE` counts as `DEBUG`, since pylm has no
/// `TRACE`.
fn level_letter(level: Level) -> &'static str {
    match level {
        Level::Error => "E",
        Level::Warn => "W",
        Level::Info => "I",
        Level::Debug | Level::Trace => "D",
    }
}

/// Returns the name of a level as pylm prints it (docs/pylm-compatibility.md).
#[must_use]
pub fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info => "INFO",
        Level::Debug | Level::Trace => "DEBUG",
    }
}

/// Returns the level with this name, in upper or lower case; `CRITICAL` counts as `ERROR`.
#[must_use]
pub fn level_named(name: &str) -> Option<Level> {
    match name.to_ascii_uppercase().as_str() {
        "CRITICAL" | "ERROR" => Some(Level::Error),
        "WARNING" | "WARN" => Some(Level::Warn),
        "INFO" => Some(Level::Info),
        "DEBUG" => Some(Level::Debug),
        "TRACE" => Some(Level::Trace),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(level: Level, message: &str) -> LogEntry {
        let when = "2016-02-16T11:28:59.088608".parse().expect("a time");
        LogEntry {
            when,
            level,
            place: "main.rs/7".into(),
            message: message.into(),
        }
    }

    #[test]
    fn lines_below_the_level_are_reduced_to_a_letter() {
        let mut book = LogBuffer::default();
        for level in [
            Level::Info,
            Level::Debug,
            Level::Info,
            Level::Warn,
            Level::Error,
        ] {
            book.push(entry(level, "a, b\nc\\"));
        }
        let uuid = Uuid::nil();
        let full_line = format!(r"2016-02-16T11:28:59.088608:{uuid}:ERROR:main.rs/7:a\, b\nc\\");
        assert_eq!(
            book.take(uuid, Level::Error),
            format!("I,D,I,W,{full_line}")
        );
        assert_eq!(book.take(uuid, Level::Error), "");
    }

    #[test]
    fn a_full_log_buffer_drops_the_oldest_and_counts_them() {
        let mut book = LogBuffer::default();
        for _ in 0..MAX_ENTRIES + 3 {
            book.push(entry(Level::Info, &"ä".repeat(MAX_MESSAGE_BYTES)));
        }
        let answer = book.take(Uuid::nil(), Level::Error);
        assert!(answer.starts_with("3 dropped,I,I,"), "{}", &answer[..40]);
        assert_eq!(answer.split(',').count(), MAX_ENTRIES + 1);
    }
}
