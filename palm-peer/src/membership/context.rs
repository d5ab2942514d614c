//! The state shared by the parts of a peer.

use super::{
    handle::ExitReason,
    metrics::MembershipMetrics,
    registration::Registrar,
    status::{PeerEvent, StatusPublisher},
    watchdog::LivenessSender,
};
use crate::{client::dialer::Dialer, io::tasks::Supervisor};
use palm_proto::config::ValidConfig;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// How long leaving may wait for etcd; after that the lease expires.
pub(crate) const LEAVE_WITHIN: Duration = Duration::from_secs(3);

/// The peer's identity, and its means to reach others.
#[derive(Clone)]
pub(crate) struct PeerContext {
    /// The server's uuid.
    pub(crate) uuid: Uuid,
    /// The configuration.
    pub(crate) config: ValidConfig,
    /// Opens the links to other peers.
    pub(crate) dialer: Dialer,
    /// Restarts the peer's tasks when they panic.
    pub(crate) supervisor: Supervisor,
    /// Publishes the peer's status.
    pub(crate) status: Arc<StatusPublisher>,
    /// Counts what happens to the peer.
    pub(crate) metrics: Arc<MembershipMetrics>,
}

/// The state shared by the agent and its sessions. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Membership {
    /// Writes the peer's own keys.
    pub(crate) registrar: Registrar,
    /// The peer's context.
    pub(crate) context: PeerContext,
    /// Checks whether the dispatch loop runs.
    pub(crate) liveness: LivenessSender,
}

impl Membership {
    /// Logs and publishes that an administrator removed the server.
    pub(crate) fn evicted(&self) -> ExitReason {
        log::warn!(
            "server {} was removed from the mesh and stays out until it is restarted",
            self.context.uuid
        );
        self.context.status.announce(PeerEvent::Evicted);
        ExitReason::Evicted
    }
}
