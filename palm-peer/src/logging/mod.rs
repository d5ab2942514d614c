//! Logging in pylm's format (docs/pylm-compatibility.md), for programs that have no logger of their own.
//!
//! The library speaks through the [`log`] facade and installs nothing. A program may call `init` (feature `logging`), which writes
//! `LEVEL:target:message` to stderr and feeds each server's `_log_query` buffer. A program with a logger of its own calls
//! [`feed`] from it, for every record, so that the buffer is fed all the same.

#[cfg(feature = "logging")]
mod stderr;

#[cfg(feature = "cli")]
pub(crate) use self::stderr::FLUSH_WITHIN;
#[cfg(feature = "logging")]
pub use self::stderr::{flush, init};

use crate::{io::wall_clock, sync::lock};
use log::Record;
use palm_proto::{
    log_buffer::{LogBuffer, LogEntry},
    types::text::formatted,
};
use std::sync::{Arc, Mutex, Weak};

/// It warns of each handshake that fails, which any stranger can bring about. The listener counts those and says so itself.
const RUSTLS: &str = "rustls";

/// The buffers of the servers in this process.
static BOOKS: Mutex<Vec<Weak<Mutex<LogBuffer>>>> = Mutex::new(Vec::new());

/// A buffer for a new server of this process.
pub(crate) fn book() -> Arc<Mutex<LogBuffer>> {
    let book = Arc::new(Mutex::new(LogBuffer::default()));
    let mut books = lock(&BOOKS);
    books.retain(|book| book.strong_count() > 0);
    books.push(Arc::downgrade(&book));
    book
}

/// Adds a record to the `_log_query` buffer of every server in this process. Neither panics nor waits.
///
/// Left out is what the leader's duties log, for it speaks of other servers, and each round would be told in the next; and
/// what rustls logs, for any stranger can have it warn without end.
pub fn feed(record: &Record<'_>) {
    feed_message(record, &formatted(*record.args()));
}

fn feed_message(record: &Record<'_>, message: &str) {
    if matches!(record.target(), "registry" | "pipeliner") || is_of_rustls(record.target()) {
        return;
    }
    let books: Vec<_> = lock(&BOOKS).iter().filter_map(Weak::upgrade).collect();
    if books.is_empty() {
        return;
    }
    let file = record.file().unwrap_or("?").rsplit('/').next().unwrap_or("?");
    let entry = LogEntry {
        when: wall_clock::timestamp(),
        level: record.level(),
        place: format!("{file}/{}", record.line().unwrap_or(0)),
        message: message.to_owned(),
    };
    for book in books {
        lock(&book).push(entry.clone());
    }
}

fn is_of_rustls(target: &str) -> bool {
    target.strip_prefix(RUSTLS).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}
