//! Signs of life of the serving loop.

use crate::{
    io::systemd::{self, Notice},
    membership::watchdog::LivenessCheck,
};

/// Only the loop itself tells systemd that it turns, so that a wedged server is restarted.
pub(super) fn answer(check: LivenessCheck) {
    systemd::notify(Notice::Watchdog);
    // The agent may have stopped waiting.
    let _ = check.send(());
}
