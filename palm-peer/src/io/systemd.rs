//! Tells systemd how the server is doing, when it runs under it: the only user of sd-notify. Without the feature
//! `systemd`, nothing is sent.

/// What systemd can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice<'a> {
    /// The server is configured: others can reach it.
    Ready,
    /// One line for `systemctl status`.
    Status(&'a str),
    /// The serving loop turns.
    Watchdog,
    /// The server is leaving.
    Stopping,
}

/// Sends a notice; does nothing where no systemd listens. A lost notice is systemd's to notice.
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

/// How long systemd waits for a [`Notice::Watchdog`] before it acts; `None` where it does not.
#[cfg(feature = "systemd")]
pub(crate) fn watchdog() -> Option<std::time::Duration> {
    let mut micros = 0;
    sd_notify::watchdog_enabled(false, &mut micros).then(|| std::time::Duration::from_micros(micros))
}

/// Does nothing.
#[cfg(not(feature = "systemd"))]
pub(crate) fn notify(_: Notice<'_>) {}

/// Returns `None`: nobody waits.
#[cfg(not(feature = "systemd"))]
pub(crate) fn watchdog() -> Option<std::time::Duration> {
    None
}
