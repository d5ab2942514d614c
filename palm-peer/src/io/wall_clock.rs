//! The wall clock, which only stamps what is written: all else is measured by the monotonic clock.

use palm_proto::types::timestamp::Timestamp;
use std::time::SystemTime;

/// Returns the current time, as records and log lines state it.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
pub(crate) fn timestamp() -> Timestamp {
    SystemTime::now().into()
}
