//! The progress bar of a job on a terminal.

use super::Ended;
use crate::table::age;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use palm_peer::Progress;
use std::{
    env, fmt,
    fs::File,
    io::{self, IsTerminal as _, Seek as _},
    os::fd::AsFd as _,
    time::Duration,
};

/// The interval between updates.
const EVERY: Duration = Duration::from_millis(200);

/// How long a job must have run before its end is estimated.
const SETTLED: Duration = Duration::from_secs(1);

/// A progress bar on stderr; hidden when stderr is not a terminal, or when the input is typed
/// at the terminal.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Shows this progress until it is finished.
    pub(super) fn new(progress: &Progress) -> Self {
        let able = env::var_os("TERM").is_some_and(|term| term != "dumb");
        if !able || !io::stderr().is_terminal() || io::stdin().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(left_to_read(), ProgressDrawTarget::stderr());
        // If the length of the input is unknown, only counts are shown.
        let template = if bar.length().is_some() {
            "[{bar:20}] {percent:>3}% {counts}"
        } else {
            "{spinner} {counts}"
        };
        let progress = progress.clone();
        let counts = move |state: &ProgressState, out: &mut dyn fmt::Write| {
            // Writing to a string cannot fail.
            let _ = out.write_str(&counts(&progress, state));
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> ").with_key("counts", counts));
        }
        bar.enable_steady_tick(EVERY);
        Self(bar)
    }

    /// Returns a function that advances the bar by the number of bytes read.
    pub(super) fn read(&self) -> impl Fn(u64) + Send + 'static {
        let bar = self.0.clone();
        move |bytes| bar.inc(bytes)
    }

    /// Runs `write`, which prints `ended`, with the bar hidden if both appear on the same terminal.
    pub(super) fn aside<T>(&self, terminal: bool, ended: &[Ended], write: impl FnOnce() -> T) -> T {
        let in_the_way = terminal || ended.iter().any(|(_, result)| result.is_err());
        if in_the_way {
            self.0.suspend(write)
        } else {
            write()
        }
    }

    /// Leaves the bar in its final state.
    pub(super) fn finish(&self) {
        self.0.abandon();
    }
}

/// Removes the bar of a job that ends early.
impl Drop for Bar {
    fn drop(&mut self) {
        if !self.0.is_finished() {
            self.0.finish_and_clear();
        }
    }
}

/// Returns how far the job is, and how long it may still take if the input's length is known.
fn counts(progress: &Progress, state: &ProgressState) -> String {
    let some = |count: u64, what: &str| {
        if count > 0 {
            format!(", {count} {what}")
        } else {
            String::new()
        }
    };
    let (done, sent) = (progress.done(), progress.sent());
    let ended = done + progress.failed();
    let left = state
        .len()
        .and_then(|length| left(state.elapsed(), (state.pos(), length), (ended, sent)))
        .map_or_else(String::new, |left| format!(", about {} left", age(left)));
    format!(
        "{done} done{}{}{}, {:.0}/s, {}{left}",
        some(sent.saturating_sub(ended), "in flight"),
        some(progress.failed(), "failed"),
        some(progress.retried(), "retried"),
        progress.rate(),
        age(state.elapsed())
    )
}

/// Returns how long a job will still take if it goes on as before, from the parts of the input that
/// were read and of the messages that ended; `None` while that is not known, and at the end.
// Estimates need no precision.
#[allow(clippy::cast_precision_loss)]
fn left(elapsed: Duration, read: (u64, u64), done: (u64, u64)) -> Option<Duration> {
    let part = |(part, all): (u64, u64)| (all > 0).then(|| part as f64 / all as f64);
    let done = part(read)? * part(done)?;
    if elapsed < SETTLED || done <= 0.0 || done >= 1.0 {
        return None;
    }
    Duration::try_from_secs_f64(elapsed.as_secs_f64() * (1.0 - done) / done).ok()
}

/// Returns the remaining length of standard input, if it is a file.
fn left_to_read() -> Option<u64> {
    let mut file = File::from(io::stdin().as_fd().try_clone_to_owned().ok()?);
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(metadata.len().saturating_sub(file.stream_position().ok()?)).filter(|&length| length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_estimated_from_what_is_done() {
        let after = |seconds, read, done| {
            left(Duration::from_secs(seconds), read, done).map(|left| left.as_secs())
        };
        assert_eq!(after(10, (50, 100), (1000, 1000)), Some(10));
        // What is read is not done yet.
        assert_eq!(after(10, (50, 100), (500, 1000)), Some(30));
        for (seconds, read, done) in [
            (10, (0, 100), (0, 0)),
            (10, (50, 100), (0, 1000)),
            (10, (100, 100), (1000, 1000)),
            (0, (50, 100), (1000, 1000)),
        ] {
            assert_eq!(after(seconds, read, done), None, "{read:?} {done:?}");
        }
    }
}
