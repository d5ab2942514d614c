//! When the files of TLS are read again, what becomes of files that cannot be used, and what is logged.

use crate::limits::log_throttle::{LogThrottle, Suppressed};
use std::time::{Duration, Instant};

/// How often the files are read at most, and only when somebody connects: an idle mesh reads nothing.
pub const READ_EVERY: Duration = Duration::from_secs(1);

/// The files (`F`) of a process, which may be replaced while it runs.
#[derive(Debug)]
pub struct CertificateReload<F> {
    /// What was read last, usable or not.
    seen: F,
    /// When they were read last.
    read: Instant,
    warnings: LogThrottle<String>,
}

impl<F: PartialEq> CertificateReload<F> {
    /// These files are in use.
    #[must_use]
    pub fn new(files: F, now: Instant) -> Self {
        Self { seen: files, read: now, warnings: LogThrottle::default() }
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

    /// Returns whether these files are to be tried.
    #[must_use]
    pub fn is_new(&self, files: &F) -> bool {
        *files != self.seen
    }

    /// These files are in use from now on.
    pub fn accepted(&mut self, files: F) {
        self.seen = files;
    }

    /// These files cannot be used, or the files cannot be read (`None`), and the former ones stay in use. Returns whether to log it.
    #[must_use]
    pub fn rejected(&mut self, files: Option<F>, reason: String, now: Instant) -> Option<Suppressed> {
        // Files that cannot be read, for want of descriptors perhaps, are not new ones.
        if let Some(files) = files {
            self.seen = files;
        }
        self.warnings.should_log(reason, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_at_most_once_a_second() {
        let start = Instant::now();
        let mut reload = CertificateReload::new(1, start);
        let due = [0, 999, 1000, 1001, 1999, 2000, 9000].map(|ms| reload.is_due(start + Duration::from_millis(ms)));
        assert_eq!(due, [false, false, true, false, false, true, true]);
    }

    #[test]
    fn unusable_files_are_logged_once_and_unreadable_ones_tried_again() {
        let now = Instant::now();
        let mut reload = CertificateReload::new(1, now);
        assert!(!reload.is_new(&1) && reload.is_new(&2));
        assert!(reload.rejected(Some(2), "half a key".into(), now).is_some());
        assert!(!reload.is_new(&2) && reload.is_new(&1));
        assert!(reload.rejected(None, "no such file".into(), now).is_some());
        assert!(reload.rejected(None, "no such file".into(), now).is_none(), "within a minute");
        reload.accepted(3);
        assert!(!reload.is_new(&3));
    }
}
