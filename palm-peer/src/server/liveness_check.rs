//! Liveness checks of the dispatch loop.

use crate::{
    io::systemd::{self, Notice},
    membership::watchdog::LivenessCheck,
};

/// Only the loop itself notifies systemd's watchdog, so that a hung server is restarted.
pub(super) fn answer(check: LivenessCheck) {
    systemd::notify(Notice::Watchdog);
    // The agent may have stopped waiting.
    let _ = check.send(());
}
