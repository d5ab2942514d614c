//! When the files of TLS are read again, what becomes of files that cannot be used,
//! and what is logged.

#[cfg(test)]
mod tests;

use crate::limits::log_throttle::{LogThrottle, Suppressed};
use std::time::{Duration, Instant};

/// How often the files are read at most, and only when somebody connects: an idle
/// mesh reads nothing.
pub const READ_EVERY: Duration = Duration::from_secs(1);

/// For how long files cannot be used before that is logged: a certificate and its key are replaced
/// one after the other.
pub const WARN_AFTER: Duration = Duration::from_secs(3);

/// The files (`F`) of a process, which may be replaced while it runs.
#[derive(Debug)]
pub struct CertificateReload<F> {
    in_use: F,
    /// When the files were read last.
    read: Instant,
    /// Since when what they hold cannot be used.
    unusable_since: Option<Instant>,
    warnings: LogThrottle<String>,
}

impl<F: PartialEq> CertificateReload<F> {
    /// These files are in use.
    #[must_use]
    pub fn new(files: F, now: Instant) -> Self {
        Self {
            in_use: files,
            read: now,
            unusable_since: None,
            warnings: LogThrottle::default(),
        }
    }

    /// Somebody connects. Returns whether to read the files first.
    #[must_use]
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now.saturating_duration_since(self.read) >= READ_EVERY;
        if is_due {
            self.read = now;
        }
        is_due
    }

    /// These files were read. Returns whether to try to use them: not those that are in use
    /// already. Files that could not be used are tried again each time, since a certificate
    /// may become valid.
    #[must_use]
    pub fn should_try(&mut self, files: &F) -> bool {
        let is_new = *files != self.in_use;
        if !is_new {
            self.unusable_since = None;
        }
        is_new
    }

    /// These files are in use from now on.
    pub fn accepted(&mut self, files: F) {
        self.in_use = files;
        self.unusable_since = None;
    }

    /// What was read cannot be used, or the files cannot be read; the former ones stay in use.
    /// Returns whether to log it: each reason once a minute, and not before [`WARN_AFTER`].
    #[must_use]
    pub fn rejected(&mut self, reason: String, now: Instant) -> Option<Suppressed> {
        let since = *self.unusable_since.get_or_insert(now);
        if now.saturating_duration_since(since) < WARN_AFTER {
            return None;
        }
        self.warnings.should_log(reason, now)
    }
}
