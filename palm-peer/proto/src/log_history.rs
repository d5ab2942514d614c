//! The latest lines of a server's log, for any number of readers: each has a cursor of its own, and
//! takes no lines away. The answer to a `_log_query` with a cursor.

use crate::{log_buffer::level_name, types::timestamp::Timestamp};
use log::Level;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The maximum number of lines that are kept.
const MAX_LINES: usize = 1000;
/// The maximum length of a message, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024;
/// The maximum number of lines in one answer, which is some 300 KiB at most with their other fields.
const MAX_ANSWERED: usize = 250;

/// One line, as readers get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was logged.
    pub when: Timestamp,
    /// The level, as pylm prints it.
    pub level: String,
    /// What logged it.
    pub target: String,
    /// The message.
    pub message: String,
}

/// What a reader asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogQuery {
    /// The cursor of the last answer; 0 for everything that is kept.
    pub since: u64,
    /// Only the lines of this target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl LogQuery {
    /// Reads the payload of a `_log_query`; `None` if it asks without a cursor.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Result<Self, String>> {
        let is_object = payload.trim_ascii_start().first() == Some(&b'{');
        is_object.then(|| serde_json::from_slice(payload).map_err(|error| error.to_string()))
    }
}

/// The answer to a reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPage {
    /// Where the next query continues.
    pub cursor: u64,
    /// How many lines were dropped before the reader came to them.
    pub dropped: u64,
    /// Whether there are more lines already.
    pub more: bool,
    /// The lines, oldest first.
    pub lines: Vec<LogLine>,
}

/// The latest lines of `INFO` and above: debug lines would crowd them out.
#[derive(Debug, Default)]
pub struct LogHistory {
    lines: VecDeque<LogLine>,
    /// How many lines there were before those that are kept.
    before: u64,
}

impl LogHistory {
    /// Adds a line.
    pub fn push(&mut self, when: Timestamp, level: Level, target: &str, message: &str) {
        if level > Level::Info {
            return;
        }
        if self.lines.len() == MAX_LINES {
            self.lines.pop_front();
            self.before += 1;
        }
        let end = boundary(message, MAX_MESSAGE_BYTES);
        let more = if end < message.len() { "…" } else { "" };
        self.lines.push_back(LogLine {
            when,
            level: level_name(level).to_owned(),
            target: target.to_owned(),
            message: format!("{}{more}", message.get(..end).unwrap_or_default()),
        });
    }

    /// Returns the lines after a cursor.
    #[must_use]
    pub fn page(&self, query: &LogQuery) -> LogPage {
        let end = self.before + self.lines.len() as u64;
        // A cursor from the future is that of another process.
        let since = if query.since > end { 0 } else { query.since };
        let skipped = since.saturating_sub(self.before);
        let mut page = LogPage {
            cursor: since.max(self.before),
            // A reader without a cursor misses nothing.
            dropped: if since == 0 {
                0
            } else {
                self.before.saturating_sub(since)
            },
            more: false,
            lines: Vec::new(),
        };
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        for line in self.lines.iter().skip(skipped) {
            let is_wanted = query
                .target
                .as_ref()
                .is_none_or(|target| *target == line.target);
            if is_wanted && page.lines.len() == MAX_ANSWERED {
                page.more = true;
                break;
            }
            page.cursor += 1;
            if is_wanted {
                page.lines.push(line.clone());
            }
        }
        page
    }
}

/// Returns where a text can be cut.
fn boundary(text: &str, max: usize) -> usize {
    let positions = (0..=max.min(text.len())).rev();
    let mut boundaries = positions.filter(|&pos| text.is_char_boundary(pos));
    boundaries.next().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(count: usize) -> LogHistory {
        let mut history = LogHistory::default();
        add(&mut history, 0..count);
        history
    }

    fn add(history: &mut LogHistory, numbers: std::ops::Range<usize>) {
        let when = "2016-02-16T11:28:59.088608".parse().expect("a time");
        for number in numbers {
            let target = if number % 2 == 0 { "registry" } else { "text" };
            history.push(when, Level::Info, target, &number.to_string());
        }
    }

    fn read(history: &LogHistory, since: u64, target: Option<&str>) -> (Vec<String>, LogPage) {
        let page = history.page(&LogQuery {
            since,
            target: target.map(str::to_owned),
        });
        let messages = page.lines.iter().map(|line| line.message.clone());
        (messages.collect(), page.clone())
    }

    #[test]
    fn readers_take_nothing_from_each_other() {
        let mut history = history(4);
        let (first, page) = read(&history, 0, None);
        assert_eq!(first, ["0", "1", "2", "3"]);
        assert_eq!(read(&history, 0, None).0, first);
        let (none, again) = read(&history, page.cursor, None);
        assert!(none.is_empty() && again.cursor == page.cursor);
        add(&mut history, 4..6);
        assert_eq!(read(&history, page.cursor, None).0, ["4", "5"]);
        let (registry, filtered) = read(&history, 0, Some("registry"));
        assert_eq!(registry, ["0", "2", "4"]);
        assert_eq!(read(&history, filtered.cursor, None).0, [""; 0]);
    }

    #[test]
    fn a_slow_reader_learns_how_much_it_missed() {
        let mut history = history(10);
        let cursor = read(&history, 0, None).1.cursor;
        add(&mut history, 10..10 + MAX_LINES + 5);
        let (_, page) = read(&history, cursor, None);
        assert_eq!(page.dropped, 5);
        assert_eq!(page.lines[0].message, "15");
        assert!(page.more && page.lines.len() == MAX_ANSWERED);
        // Page by page to the end.
        let (mut cursor, mut count) = (cursor, 0);
        loop {
            let (_, page) = read(&history, cursor, None);
            (cursor, count) = (page.cursor, count + page.lines.len());
            if !page.more {
                break;
            }
        }
        assert_eq!(count, MAX_LINES);
        assert_eq!(read(&history, 1_000_000, None).1.lines[0].message, "15");
        assert_eq!(read(&history, 0, None).1.dropped, 0);
    }

    #[test]
    fn lines_are_bounded_and_debug_lines_are_left_out() {
        let mut history = LogHistory::default();
        let when = "2016-02-16T11:28:59.088608".parse().expect("a time");
        history.push(when, Level::Debug, "text", "x");
        history.push(when, Level::Warn, "text", &"ä".repeat(MAX_MESSAGE_BYTES));
        let (messages, page) = read(&history, 0, None);
        assert_eq!(
            (messages.len(), page.lines[0].level.as_str()),
            (1, "WARNING")
        );
        assert!(messages[0].len() <= MAX_MESSAGE_BYTES + "…".len());
    }

    #[test]
    fn a_query_with_a_cursor_is_json() {
        for level in ["", "INFO", " warning"] {
            assert_eq!(LogQuery::read(level.as_bytes()), None);
        }
        let query = LogQuery {
            since: 7,
            target: None,
        };
        assert_eq!(LogQuery::read(br#"{"since": 7}"#), Some(Ok(query)));
        assert!(matches!(LogQuery::read(b"{}"), Some(Err(_))));
    }
}
