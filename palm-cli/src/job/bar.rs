//! The progress bar of a job on a terminal.

use super::Ended;
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
            "[{bar:20}] {percent:>3}% {counts} {elapsed}"
        } else {
            "{spinner} {counts} {elapsed}"
        };
        let progress = progress.clone();
        let counts = move |_: &ProgressState, out: &mut dyn fmt::Write| {
            // Writing to a string cannot fail.
            let _ = out.write_str(&counts(&progress));
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

fn counts(progress: &Progress) -> String {
    let some = |count: u64, what: &str| {
        if count > 0 {
            format!(", {count} {what}")
        } else {
            String::new()
        }
    };
    let (failed, retried) = (
        some(progress.failed(), "failed"),
        some(progress.retried(), "retried"),
    );
    format!(
        "{} of {} done{failed}{retried}, {:.0}/s",
        progress.done(),
        progress.sent(),
        progress.rate()
    )
}

/// Returns the remaining length of standard input, if it is a file.
fn left_to_read() -> Option<u64> {
    let mut file = File::from(io::stdin().as_fd().try_clone_to_owned().ok()?);
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(metadata.len().saturating_sub(file.stream_position().ok()?)).filter(|&length| length > 0)
}
