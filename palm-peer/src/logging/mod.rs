//! Logging in pylm's format (docs/pylm-compatibility.md), for programs without their own logger.
//!
//! The library logs through the [`log`] facade and installs no logger. A program may call
//! `init` (feature `logging`), which writes `LEVEL:target:message` to stderr and feeds each
//! server's `_log_query` buffer. A program with its own logger calls [`feed`] for every record,
//! to feed that buffer; one with a subscriber of tracing adds `tracing_layer` to it (feature
//! `tracing-subscriber`).

#[cfg(feature = "logging")]
mod stderr;
#[cfg(feature = "tracing-subscriber")]
mod tracing_layer;

#[cfg(feature = "cli")]
pub(crate) use self::stderr::FLUSH_WITHIN;
#[cfg(feature = "logging")]
pub use self::stderr::{flush, init};
#[cfg(feature = "tracing-subscriber")]
pub use self::tracing_layer::tracing_layer;
#[cfg(feature = "logging")]
pub use palm_proto::config::LogFormat;

pub use palm_proto::log_history::{LogLine, LogPage, LogQuery};

use crate::{io::wall_clock, sync::lock};
use log::{Level, Record};
use palm_proto::{
    log_buffer::{LogBuffer, LogEntry},
    types::text::formatted,
};
use std::sync::{Arc, Mutex, Weak};

/// rustls logs a warning for each failed handshake, which any remote peer can cause. The listener
/// counts and logs those itself.
const RUSTLS: &str = "rustls";

/// Crates whose lines below WARN say nothing about a mesh.
#[cfg(any(feature = "logging", feature = "tracing-subscriber"))]
const CHATTY: [&str; 9] = [
    "async_io",
    "async_std",
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "polling",
    "tonic",
    "tower",
];

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
    let (level, target) = (record.level(), record.target());
    feed_line(level, target, source_place(record), message);
}

fn feed_line(level: Level, target: &str, place: String, message: &str) {
    if is_of(target, RUSTLS) {
        return;
    }
    let is_of_leader = matches!(target, "registry" | "pipeliner");
    let books: Vec<_> = lock(&BOOKS).iter().filter_map(Weak::upgrade).collect();
    if books.is_empty() {
        return;
    }
    let entry = LogEntry {
        when: wall_clock::timestamp(),
        level,
        place,
        message: message.to_owned(),
    };
    for book in books {
        let mut book = lock(&book);
        book.history.push(entry.when, entry.level, target, message);
        if !is_of_leader {
            book.push(entry.clone());
        }
    }
}

/// Returns the file and the line of the source that logged a record.
fn source_place(record: &Record<'_>) -> String {
    place(record.file(), record.line())
}

fn place(path: Option<&str>, line: Option<u32>) -> String {
    let path = path.unwrap_or("?");
    let file = path.rsplit('/').next().unwrap_or(path);
    format!("{file}/{}", line.unwrap_or(0))
}

/// Returns whether a target is a module of this crate.
fn is_of(target: &str, name: &str) -> bool {
    target
        .strip_prefix(name)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}
