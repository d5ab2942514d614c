//! Counters of membership, election and probes.

use crate::{leader::LeaderMetrics, sync::Counter};
use std::sync::Arc;

/// Counts what happens to a peer's lease and leadership.
#[derive(Debug, Default)]
pub(crate) struct MembershipMetrics {
    /// How often the peer was elected.
    pub(crate) terms: Counter,
    /// How often the lease was renewed.
    pub(crate) renewals: Counter,
    /// How often it could not be.
    pub(crate) renewal_failures: Counter,
    /// How often it was in doubt, because it was not renewed in time.
    pub(crate) doubts: Counter,
    /// How often it was lost.
    pub(crate) losses: Counter,
    /// What the peer does while it leads.
    pub(crate) leader: Arc<LeaderMetrics>,
}
