//! Reads the log of one server by a cursor, which takes no lines from other readers.

use crate::{error::warn, find::describe, screen::harmless};
use palm_peer::{
    CallErrorKind, Client, Record, ServerEntry,
    logging::{LogLine, LogPage, LogQuery},
};
use std::time::Duration;

/// How long a server may take to answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// The length of an abbreviated uuid.
const ID_LENGTH: usize = 8;

/// A line, with the server that logged it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The server's name and the beginning of its uuid.
    pub of: String,
    /// The line.
    pub line: LogLine,
}

/// The log of one server.
pub(super) struct Reader {
    /// The server.
    pub uuid: String,
    /// Whether it had any lines.
    pub has_lines: bool,
    /// Whether it did not answer the last time.
    pub failed: bool,
    of: String,
    description: String,
    /// Its record: a server that is not ready, such as a leader, can be asked all the same.
    record: Record,
    cursor: u64,
}

impl Reader {
    /// Returns the reader of a server's log from its beginning.
    pub(super) fn of(entry: &ServerEntry) -> Option<Self> {
        let record = entry.record.as_ref().ok()?;
        let id = entry.name.get(..ID_LENGTH).unwrap_or(&entry.name);
        Some(Self {
            uuid: entry.name.clone(),
            has_lines: false,
            failed: false,
            of: format!("{}/{id}", record.server),
            description: describe(entry),
            record: record.clone(),
            cursor: 0,
        })
    }

    /// Returns the lines since the last time. Says on stderr when the server stops answering.
    pub(super) async fn read(&mut self, client: &Client, target: Option<&str>) -> Vec<Entry> {
        let mut entries = Vec::new();
        loop {
            let page = match self.page(client, target).await {
                Ok(page) => page,
                Err(reason) => {
                    if !self.failed {
                        warn(&format!("{}: {reason}", self.description));
                    }
                    self.failed = true;
                    return entries;
                }
            };
            self.failed = false;
            if page.dropped > 0 {
                warn(&format!(
                    "{}: {} lines were dropped before they were read",
                    self.description, page.dropped
                ));
            }
            self.has_lines |= !page.lines.is_empty();
            // A server cannot keep a reader forever.
            let more = page.more && page.cursor > self.cursor;
            self.cursor = page.cursor;
            entries.extend(page.lines.into_iter().map(|line| Entry {
                of: self.of.clone(),
                line,
            }));
            if !more {
                return entries;
            }
        }
    }

    async fn page(&self, client: &Client, target: Option<&str>) -> Result<LogPage, String> {
        let query = LogQuery {
            since: self.cursor,
            target: target.map(str::to_owned),
        };
        let query = serde_json::to_vec(&query).map_err(|error| error.to_string())?;
        let call = client
            .call(format!("{}._log_query", self.uuid), query)
            .at(&self.record);
        let answer = call.timeout(ANSWERED_WITHIN).await;
        let answer = answer.map_err(|error| match error.kind() {
            CallErrorKind::BadMessage => {
                "its log cannot be read without taking lines from others: it knows no cursors"
                    .to_owned()
            }
            _ => error.to_string(),
        })?;
        serde_json::from_slice(&answer)
            .map_err(|error| harmless(&format!("its answer is invalid: {error}")))
    }
}
