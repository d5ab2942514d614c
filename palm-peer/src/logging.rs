//! Logging in the guide's format, for programs that have no logger of their own.
//!
//! The library speaks through the [`log`] facade and installs nothing. A program may call [`init`], which writes
//! `LEVEL:target:message` to stderr and feeds each server's `_log_query` buffer. A program with a logger of its own calls
//! [`feed`] from it, for every record, so that the buffer is fed all the same.

use crate::{
    decisions::logbook::{Entry, Logbook, level_name},
    drivers::lock::lock,
    facts::plain::steers,
};
use chrono::Utc;
use log::{Level, LevelFilter, Record};
use std::{
    fmt::{self, Write as _},
    fs, io,
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex, Weak},
};

/// Crates whose finer lines say nothing about a mesh.
const CHATTY: [&str; 10] =
    ["async_io", "async_std", "h2", "hyper", "hyper_util", "mio", "polling", "rustls", "tonic", "tower"];

/// The buffers of the servers in this process.
static BOOKS: Mutex<Vec<Weak<Mutex<Logbook>>>> = Mutex::new(Vec::new());

/// A buffer for a new server of this process.
pub(crate) fn book() -> Arc<Mutex<Logbook>> {
    let book = Arc::new(Mutex::new(Logbook::default()));
    let mut books = lock(&BOOKS);
    books.retain(|book| book.strong_count() > 0);
    books.push(Arc::downgrade(&book));
    book
}

/// Adds a record to the `_log_query` buffer of every server in this process.
///
/// What the leader's duties log is left out: it speaks of other servers, and each round would be told in the next.
pub fn feed(record: &Record<'_>) {
    if matches!(record.target(), "registry" | "pipeliner") {
        return;
    }
    let file = record.file().unwrap_or("?").rsplit('/').next().unwrap_or("?");
    let entry = Entry {
        when: Utc::now().into(),
        level: record.level(),
        place: format!("{file}/{}", record.line().unwrap_or(0)),
        message: record.args().to_string(),
    };
    let books: Vec<_> = lock(&BOOKS).iter().filter_map(Weak::upgrade).collect();
    for book in books {
        lock(&book).push(entry.clone());
    }
}

/// Sets up logging for a program: lines of `level` and above go to stderr as `LEVEL:target:message`, with the priority
/// that journald reads in front (`<6>`) where stderr leads there; all lines down to `DEBUG` feed the `_log_query` buffers.
///
/// # Errors
/// When a logger is installed already.
pub fn init(level: LevelFilter) -> Result<(), log::SetLoggerError> {
    let priorities = leads_to_journal();
    let printed = fern::Dispatch::new()
        .level(level)
        .format(move |out, message, record| out.finish(format_args!("{}", Line { record, message, priorities })))
        .chain(io::stderr());
    let fed = fern::Dispatch::new().level(LevelFilter::Debug).chain(fern::Output::call(feed));
    CHATTY
        .iter()
        .fold(fern::Dispatch::new(), |dispatch, target| dispatch.level_for(*target, LevelFilter::Warn))
        .chain(printed)
        .chain(fed)
        .apply()
}

/// A line as the guide prints it.
struct Line<'a> {
    record: &'a Record<'a>,
    message: &'a fmt::Arguments<'a>,
    priorities: bool,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let critical = is_critical(self.record);
        let level = if critical { "CRITICAL" } else { level_name(self.record.level()) };
        let target = self.record.target();
        let priority = if critical { 2 } else { priority(self.record.level()) };
        for (place, line) in self.message.to_string().split('\n').enumerate() {
            if place > 0 {
                f.write_char('\n')?;
            }
            // journald reads a priority at the start of each line.
            if self.priorities {
                write!(f, "<{priority}>")?;
            }
            // No line of a message shall look like a message of its own.
            if place == 0 {
                write!(f, "{level}:{target}:")?;
            } else {
                f.write_str("    ")?;
            }
            write_plain(f, line)?;
        }
        Ok(())
    }
}

/// What a client sent may be in there: it shall not steer the terminal of whoever reads it.
fn write_plain(f: &mut fmt::Formatter<'_>, line: &str) -> fmt::Result {
    let mut rest = line;
    while let Some(at) = rest.find(|c| steers(c) && c != '\t') {
        let (before, from) = rest.split_at(at);
        let steering = from.chars().next().map_or(0, u32::from);
        write!(f, "{before}\\x{steering:02x}")?;
        rest = from.get(char::from_u32(steering).map_or(1, char::len_utf8)..).unwrap_or_default();
    }
    f.write_str(rest)
}

/// Whether a record is of the guide's level `CRITICAL`, which the facade does not know.
fn is_critical(record: &Record<'_>) -> bool {
    record.key_values().get("critical".into()).and_then(|value| value.to_bool()).unwrap_or(false)
}

/// The priority of `sd-daemon(3)`.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Whether stderr is the stream that `JOURNAL_STREAM` names, as `systemd.exec(5)` describes.
fn leads_to_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = fs::metadata("/proc/self/fd/2") else { return false };
    named == format!("{}:{}", stderr.dev(), stderr.ino())
}
