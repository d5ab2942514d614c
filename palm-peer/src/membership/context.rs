//! What the parts of a peer share.

use super::{
    handle::ExitReason,
    registration::Registrar,
    status::{PeerEvent, StatusPublisher},
    watchdog::LivenessSender,
};
use crate::{client::dialer::Dialer, io::tasks::Supervisor};
use palm_proto::config::ValidConfig;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// How long leaving may wait for etcd; after that the lease expires by itself.
pub(crate) const LEAVE_WITHIN: Duration = Duration::from_secs(3);

/// Who the peer is, and what it reaches others with.
#[derive(Clone)]
pub(crate) struct PeerContext {
    /// The server's uuid.
    pub(crate) uuid: Uuid,
    /// What was set.
    pub(crate) config: ValidConfig,
    /// Opens the links to other peers.
    pub(crate) dialer: Dialer,
    /// Starts the peer's tasks anew when they panic.
    pub(crate) supervisor: Supervisor,
}

/// What the agent and its sessions share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Membership {
    /// Writes the peer's own keys.
    pub(crate) registrar: Registrar,
    /// Who the peer is.
    pub(crate) context: PeerContext,
    /// Where others hear how it is doing.
    pub(crate) status: Arc<StatusPublisher>,
    /// Asks the dispatch loop whether it runs.
    pub(crate) liveness: LivenessSender,
}

impl Membership {
    /// Says that a person removed the server.
    pub(crate) fn evicted(&self) -> ExitReason {
        log::warn!("server {} was removed from the mesh and stays out until it is started anew", self.context.uuid);
        self.status.announce(PeerEvent::Evicted);
        ExitReason::Evicted
    }
}
