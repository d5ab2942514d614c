//! Logging in pylm's format (docs/pylm-compatibility.md), for programs without their own logger.
//!
//! The library logs through the [`log`] facade and installs no logger. A program may call
//! `init` (feature `logging`), which writes `LEVEL:target:message` to stderr and feeds each
//! server's `_log_query` buffer. A program with its own logger calls [`feed`] for every record,
//! to feed that buffer.

#[cfg(feature = "logging")]
mod stderr;

#[cfg(feature = "cli")]
pub(crate) use self::stderr::FLUSH_WITHIN;
#[cfg(feature = "logging")]
pub use self::stderr::{flush, init};
#[cfg(feature = "logging")]
pub use palm_proto::config::LogFormat;

pub use palm_proto::log_history::{LogLine, LogPage, LogQuery};

use crate::{io::wall_clock, sync::lock};
use log::Record;
use palm_proto::{
    log_buffer::{LogBuffer, LogEntry},
    types::text::formatted,
};
use std::sync::{Arc, Mutex, Weak};

/// rustls logs a warning for each failed handshake, which any remote peer can cause. The listener
/// counts and logs those itself.
const RUSTLS: &str = "rustls";

/// The buffers of the servers in this process.
static BOOKS: Mutex<Vec<Weak<Mutex<LogBuffer>>>> = Mutex::new(Vec::new());

/// Returns a buffer for a new server of this process.
pub(crate) fn book() -> Arc<Mutex<LogBuffer>> {
    let book = Arc::new(Mutex::new(LogBuffer::default()));
    let mut books = lock(&BOOKS);
    books.retain(|book| book.strong_count() > 0);
    books.push(Arc::downgrade(&book));
    book
}

/// Adds a record to the `_log_query` buffer of every server in this process. Neither
/// panics nor blocks.
///
/// Records of the leader's duties are for readers with a cursor only ([`LogQuery`]): they are about
/// other servers, and each round would be repeated in the next. Those of rustls are left out,
/// because remote peers can cause them without limit.
///
/// ```
/// struct Logger;
///
/// impl log::Log for Logger {
///     fn enabled(&self, _: &log::Metadata<'_>) -> bool {
///         true
///     }
///
///     fn log(&self, record: &log::Record<'_>) {
///         palm_peer::logging::feed(record);
///         eprintln!("{}: {}", record.target(), record.args());
///     }
///
///     fn flush(&self) {}
/// }
///
/// log::set_boxed_logger(Box::new(Logger))?;
/// log::set_max_level(log::LevelFilter::Debug);
/// # Ok::<_, log::SetLoggerError>(())
/// ```
pub fn feed(record: &Record<'_>) {
    feed_message(record, &formatted(*record.args()));
}

fn feed_message(record: &Record<'_>, message: &str) {
    if is_of_rustls(record.target()) {
        return;
    }
    let is_of_leader = matches!(record.target(), "registry" | "pipeliner");
    let books: Vec<_> = lock(&BOOKS).iter().filter_map(Weak::upgrade).collect();
    if books.is_empty() {
        return;
    }
    let entry = LogEntry {
        when: wall_clock::timestamp(),
        level: record.level(),
        place: source_place(record),
        message: message.to_owned(),
    };
    for book in books {
        let mut book = lock(&book);
        book.history
            .push(entry.when, entry.level, record.target(), message);
        if !is_of_leader {
            book.push(entry.clone());
        }
    }
}

/// Returns the file and the line of the source that logged a record.
fn source_place(record: &Record<'_>) -> String {
    let path = record.file().unwrap_or("?");
    let file = path.rsplit('/').next().unwrap_or(path);
    format!("{file}/{}", record.line().unwrap_or(0))
}

fn is_of_rustls(target: &str) -> bool {
    target
        .strip_prefix(RUSTLS)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}
