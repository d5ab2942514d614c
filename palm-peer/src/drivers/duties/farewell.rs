//! What a leader that leaves has to say to clients: it is no longer there itself.

use crate::{
    drivers::lock::lock,
    facts::{ids::Revision, pipeline::Pipeline},
    ports::etcd::{Lease, Operation, Transaction},
};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// What the leader last published under its own server's name, with itself taken out.
#[derive(Debug, Clone)]
pub struct Farewell {
    key: String,
    replaces: Revision,
    rest: Option<Pipeline>,
    lease: Lease,
}

/// Shared between the duties, which publish, and the agent, which leaves.
pub type SharedFarewell = Arc<Mutex<Option<Farewell>>>;

impl Farewell {
    /// The farewell of `me` after `pipeline` was published under `key`.
    pub fn prepare(key: String, replaces: Revision, mut pipeline: Pipeline, me: Uuid, lease: Lease) -> Self {
        pipeline.instances.retain(|instance| instance.uuid != me);
        let Pipeline { functions, instances, .. } = &mut pipeline;
        functions.retain(|function| instances.iter().any(|instance| instance.functions.contains(function)));
        let rest = (!pipeline.instances.is_empty()).then_some(pipeline);
        Self { key, replaces, rest, lease }
    }

    /// Takes what was prepared.
    pub fn take(shared: &SharedFarewell) -> Option<Self> {
        lock(shared).take()
    }

    /// Makes `transaction` depend on nobody having published anything else since.
    pub fn guard(&self, transaction: Transaction) -> Transaction {
        transaction.modified(&self.key, self.replaces)
    }

    /// Publishes what is left.
    pub fn write(&self, transaction: Transaction) -> Transaction {
        transaction.then(match &self.rest {
            Some(rest) => Operation::put(&self.key, rest.to_json(), self.lease),
            None => Operation::delete(&self.key),
        })
    }
}
