//! Counters of what a leader does.

use crate::sync::Counter;

/// Counts probes and removals.
#[derive(Debug, Default)]
pub(crate) struct LeaderMetrics {
    /// The probes that were begun.
    pub(crate) probes: Counter,
    /// Those that the server did not answer.
    pub(crate) failed: Counter,
    /// Those that were not sent, because this process lacks a resource.
    pub(crate) unsent: Counter,
    /// The servers that were removed from etcd.
    pub(crate) removals: Counter,
}
