//! Membership: lease, registration, election and the leader's duties, on etcd's thread.

mod agent;
mod campaign;
mod context;
mod handle;
mod latest;
mod lease_keeper;
mod metrics;
mod own_lease;
pub(crate) mod registration;
mod session;
mod session_tasks;
pub(crate) mod status;
pub(crate) mod watchdog;

pub(crate) use self::{
    context::PeerContext,
    handle::{AgentHandle, ExitReason},
    metrics::MembershipMetrics,
};

use self::{agent::Agent, context::Membership, registration::Registrar, watchdog::LivenessSender};
use crate::{
    error::Error,
    io::{etcd::Etcd, tasks::Name},
};
use futures::channel::oneshot;
use palm_proto::types::record::Record;
use std::sync::Arc;

/// The result of joining. Dropping it before stops joining, and what was put into etcd is removed.
pub(crate) type JoinResult = oneshot::Receiver<Result<(), Error>>;

/// Spawns an agent on etcd's thread that joins the mesh and keeps the server in it.
pub(crate) fn spawn(
    etcd: Etcd,
    context: PeerContext,
    record: Record,
    liveness: LivenessSender,
) -> (AgentHandle, JoinResult) {
    if !record.is_ready() {
        context.status.announce(status::PeerEvent::NotReady);
    }
    let registrar = Registrar::new(etcd.clone(), &context.config, record);
    let (handle, commands, exit) =
        handle::new(Arc::clone(&context.status), Arc::clone(&registrar.ready));
    let agent = Agent::new(
        Membership {
            registrar,
            context,
            liveness,
        },
        commands,
    );
    let (joined_tx, joined) = oneshot::channel();
    drop(etcd.spawn(Name::Peer, async move {
        // The end of a peer that is not served is not awaited.
        let _ = exit.send(agent.live(joined_tx).await);
    }));
    (handle, joined)
}
