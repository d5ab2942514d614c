//! Notifications to systemd, if the server runs under it: the only user of sd-notify. Without the
//! feature `systemd`, nothing is sent.

/// A notification to systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice<'a> {
    /// The server is configured: clients can reach it.
    Ready,
    /// One line for `systemctl status`.
    Status(&'a str),
    /// The dispatch loop runs.
    Watchdog,
    /// The server is leaving.
    Stopping,
}

/// Sends a notification; does nothing without systemd. Errors are ignored.
#[cfg(feature = "systemd")]
pub(crate) fn notify(notice: Notice<'_>) {
    use sd_notify::NotifyState;
    let state = match notice {
        Notice::Ready => NotifyState::Ready,
        Notice::Status(text) => NotifyState::Status(text),
        Notice::Watchdog => NotifyState::Watchdog,
        Notice::Stopping => NotifyState::Stopping,
    };
    let _ = sd_notify::notify(false, &[state]);
}

/// Returns how long systemd waits for a [`Notice::Watchdog`] before it acts; `None` if it does not.
#[cfg(feature = "systemd")]
pub(crate) fn watchdog() -> Option<std::time::Duration> {
    let mut micros = 0;
    sd_notify::watchdog_enabled(false, &mut micros)
        .then(|| std::time::Duration::from_micros(micros))
}

/// Does nothing.
#[cfg(not(feature = "systemd"))]
pub(crate) fn notify(_: Notice<'_>) {}

/// Returns `None`: there is no watchdog.
#[cfg(not(feature = "systemd"))]
pub(crate) fn watchdog() -> Option<std::time::Duration> {
    None
}
