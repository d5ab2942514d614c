//! What a person can get wrong, or change their mind about: signals, settings, files, terminals.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod limits;
mod signals;

use std::time::Duration;

/// For what takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(20);
