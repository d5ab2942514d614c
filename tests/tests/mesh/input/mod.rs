//! What a person can get wrong, or change their mind about: signals, settings, files, terminals.

mod certificates;
mod etcd_tls;
mod limits;
mod settings;
mod signals;
mod terminal;

use std::time::Duration;

/// The timeout of operations that take milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(20);
