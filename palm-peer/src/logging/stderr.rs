//! Log lines to stderr in pylm's format (docs/pylm-compatibility.md).

use super::{CHATTY, RUSTLS, feed_message, source_place};
use crate::{
    io::{
        line_queue::{LineQueue, Stderr},
        wall_clock,
    },
    sync::lock,
};
use log::{Level, LevelFilter, Record};
use palm_proto::{
    config::LogFormat,
    limits::log_throttle::LogThrottle,
    log_buffer::level_name,
    types::{
        message::MAX_TIMEOUT,
        text::{formatted, message_in, steers},
    },
};
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt::{self, Write as _},
    fs,
    os::unix::fs::MetadataExt,
    panic::{self, PanicHookInfo},
    sync::{Arc, LazyLock, Mutex, OnceLock},
    thread,
    time::{Duration, Instant},
};

/// How long the exit of a program waits for stderr.
pub(crate) const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// The queue of lines for stderr, once [`init`] was called.
static LINES: OnceLock<Arc<LineQueue>> = OnceLock::new();

/// Sets up logging for a program: lines of `level` and above go to stderr in the given format, with
/// the priority that journald reads in front (`<6>`) where stderr leads there; all lines down to
/// `DEBUG` feed the `_log_query` buffers. Panics are logged as well, as errors of the target
/// `panic`, each place of the code once a minute at most; a program that wants a panic hook of its
/// own sets it afterwards.
///
/// Logging neither panics nor blocks. A thread writes the lines; while stderr accepts none (its
/// reader is gone or stopped, the disk is full), they are dropped and counted, and the count is
/// logged once stderr accepts lines again. When the thread that called this ends, as it does at the
/// end of `main`, queued lines are written, for at most a second; before a
/// [`process::exit`](std::process::exit) elsewhere, call [`flush`].
///
/// ```
/// use palm_peer::logging::{self, LogFormat};
///
/// logging::init(log::LevelFilter::Info, LogFormat::from_env()?)?;
/// log::info!("logged as 2026-11-27T22:10:05.123456Z INFO:my_program:...");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When a logger is installed already.
pub fn init(level: LevelFilter, format: LogFormat) -> Result<(), log::SetLoggerError> {
    let style = Style::of(format);
    let logged = fern::Output::call(move |record| {
        // Formatted without a lock: formatting a value may log, fail or panic.
        let message = formatted(*record.args());
        feed_message(record, &message);
        if record.level() <= level {
            print(record, &message, style);
        }
    });
    let chatty = CHATTY
        .iter()
        .map(|target| (*target, LevelFilter::Warn))
        .chain([(RUSTLS, LevelFilter::Off)]);
    chatty
        .fold(fern::Dispatch::new(), |dispatch, (target, level)| {
            dispatch.level_for(target, level)
        })
        .level(level.max(LevelFilter::Debug))
        .chain(logged)
        .apply()?;
    panic::set_hook(Box::new(log_panic));
    FLUSHED.with(|_| ());
    Ok(())
}

/// Waits until everything that was logged is written or dropped, at most for `within`. Returns
/// whether it is. For the exit of a program that called [`init`].
pub fn flush(within: Duration) -> bool {
    LINES
        .get()
        .is_none_or(|lines| lines.flush(within.min(MAX_TIMEOUT)))
}

/// Flushes when its thread ends.
struct Flushed;

impl Drop for Flushed {
    fn drop(&mut self) {
        flush(FLUSH_WITHIN);
    }
}

thread_local! {
    static FLUSHED: Flushed = const { Flushed };
}

fn print(record: &Record<'_>, message: &str, style: Style) {
    let dropped = move |count| tell_dropped(count, style);
    let lines = LINES.get_or_init(|| LineQueue::start(Stderr, dropped));
    lines.push(style.line(record, message));
}

/// Returns the line that reports how many lines were dropped.
fn tell_dropped(count: u64, style: Style) -> Vec<u8> {
    let message = if count == 1 {
        "1 log line was dropped because stderr could not be written".to_owned()
    } else {
        format!("{count} log lines were dropped because stderr could not be written")
    };
    let record = Record::builder()
        .level(Level::Warn)
        .target(module_path!())
        .build();
    style.line(&record, &message)
}

/// The standard library's hook would block while stderr is not read, and clients can make
/// functions panic at will.
fn log_panic(panicked: &PanicHookInfo<'_>) {
    static LOGGED: LazyLock<Mutex<LogThrottle<String>>> = LazyLock::new(Mutex::default);
    let (file, line) = panicked
        .location()
        .map_or(("?", 0), |location| (location.file(), location.line()));
    let Some(suppressed) = lock(&LOGGED).should_log(format!("{file}:{line}"), Instant::now())
    else {
        return;
    };
    let current = thread::current();
    let (thread, message) = (
        current.name().unwrap_or("unnamed"),
        message_in(panicked.payload()),
    );
    // Empty unless RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let captured = backtrace.status() == BacktraceStatus::Captured;
    let backtrace = if captured {
        format!("\n{backtrace}")
    } else {
        String::new()
    };
    let mut record = Record::builder();
    record
        .level(Level::Error)
        .target("panic")
        .file(Some(file))
        .line(Some(line));
    log::logger().log(
        &record
            .args(format_args!(
                "thread '{thread}' panicked at {file}:{line}: {message}{suppressed}{backtrace}"
            ))
            .build(),
    );
}

/// How lines are written.
#[derive(Debug, Clone, Copy)]
struct Style {
    /// With the priority that journald reads.
    priorities: bool,
    times: bool,
    json: bool,
}

impl Style {
    fn of(format: LogFormat) -> Self {
        let priorities = leads_to_journal();
        let times = match format {
            LogFormat::Auto => !priorities,
            LogFormat::Plain => false,
            LogFormat::Time | LogFormat::Json => true,
        };
        Self {
            priorities,
            times,
            json: format == LogFormat::Json,
        }
    }

    /// Returns a record as it is written, with its end of line.
    fn line(self, record: &Record<'_>, message: &str) -> Vec<u8> {
        if self.json {
            return self.json_line(record, message).into_bytes();
        }
        let line = Line {
            record,
            message,
            style: self,
        };
        format!("{line}\n").into_bytes()
    }

    fn json_line(self, record: &Record<'_>, message: &str) -> String {
        let priority = if self.priorities {
            format!("<{}>", priority_of(record))
        } else {
            String::new()
        };
        // JSON escapes control characters, and so does `write_plain` what steers terminals beyond
        // these.
        let mut plain = String::new();
        for (place, line) in message.split('\n').enumerate() {
            if place > 0 {
                plain.push('\n');
            }
            let _ = write_plain(&mut plain, line);
        }
        let fields = serde_json::json!({
            "time": format!("{}Z", wall_clock::timestamp()),
            "level": level_of(record),
            "target": record.target(),
            "message": plain,
            "place": source_place(record),
        });
        format!("{priority}{fields}\n")
    }
}

/// Formats a line as pylm prints it (docs/pylm-compatibility.md).
struct Line<'a> {
    record: &'a Record<'a>,
    message: &'a str,
    style: Style,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (level, target) = (level_of(self.record), self.record.target());
        for (place, line) in self.message.split('\n').enumerate() {
            if place > 0 {
                f.write_char('\n')?;
            }
            // journald reads the priority at the start of each line.
            if self.style.priorities {
                write!(f, "<{}>", priority_of(self.record))?;
            }
            if self.style.times && place == 0 {
                write!(f, "{}Z ", wall_clock::timestamp())?;
            }
            // A line of a message must not look like a separate message.
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

/// Escapes control characters: a client may have sent the text, and it must not control the
/// reader's terminal.
fn write_plain(f: &mut impl fmt::Write, line: &str) -> fmt::Result {
    let mut rest = line;
    while let Some(at) = rest.find(|c| steers(c) && c != '\t') {
        let (before, from) = rest.split_at(at);
        let steering = from.chars().next().map_or(0, u32::from);
        write!(f, "{before}\\x{steering:02x}")?;
        rest = from
            .get(char::from_u32(steering).map_or(1, char::len_utf8)..)
            .unwrap_or_default();
    }
    f.write_str(rest)
}

/// Returns whether a record has pylm's level `CRITICAL`, which the `log` facade lacks.
fn is_critical(record: &Record<'_>) -> bool {
    record
        .key_values()
        .get("critical".into())
        .and_then(|value| value.to_bool())
        .unwrap_or(false)
}

fn level_of(record: &Record<'_>) -> &'static str {
    if is_critical(record) {
        "CRITICAL"
    } else {
        level_name(record.level())
    }
}

/// Returns the priority of `sd-daemon(3)`.
fn priority_of(record: &Record<'_>) -> u8 {
    match record.level() {
        _ if is_critical(record) => 2,
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Returns whether stderr is the stream in `JOURNAL_STREAM`, as `systemd.exec(5)` describes.
fn leads_to_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stderr) = fs::metadata("/proc/self/fd/2") else {
        return false;
    };
    named == format!("{}:{}", stderr.dev(), stderr.ino())
}
