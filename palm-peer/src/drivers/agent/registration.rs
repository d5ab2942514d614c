//! The peer's own keys: puts them, finds out why they are gone, takes them away.

use crate::{
    Options,
    decisions::{
        lease::LeaseClock,
        removal::{Evidence, Verdict, judge},
    },
    drivers::{
        departures::{DEPARTED_FOR, note, now},
        duties::{
            SharedClock,
            farewell::{Farewell, SharedFarewell},
        },
    },
    facts::{
        departure::{Departure, REMOVED_BY_ADMIN, Why},
        ids::{LeaseId, Revision},
        keys::Keys,
        pipeline::Pipeline,
        record::Record,
    },
    ports::etcd::{Etcd, EtcdError, KeyValue, Lease, Operation, Transaction},
};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Why a peer could not register.
#[derive(Debug)]
pub enum RegisterError {
    /// A person removed it meanwhile.
    Evicted,
    /// etcd did not do it.
    Etcd(EtcdError),
}

impl From<EtcdError> for RegisterError {
    fn from(error: EtcdError) -> Self {
        Self::Etcd(error)
    }
}

/// What a peer needs to write its own keys.
#[derive(Clone)]
pub struct Registrar {
    /// Where.
    pub etcd: Etcd,
    /// Under which keys.
    pub keys: Keys,
    /// What.
    pub record: Record,
}

impl Registrar {
    /// The registrar of a server that listens at `port`.
    pub fn new(etcd: Etcd, options: &Options, record: Record) -> Self {
        Self { etcd, keys: options.keys(), record }
    }

    /// Gets a lease.
    pub async fn lease(&self, ttl: Duration) -> Result<(LeaseId, SharedClock), EtcdError> {
        let asked = Instant::now();
        let granted = self.etcd.grant_lease(ttl).await?;
        Ok((granted.id, Arc::new(Mutex::new(LeaseClock::granted(asked, granted.ttl)))))
    }

    /// Puts the record on `lease`, and forgets that the server ever departed, unless a person removed it since `known`,
    /// the last revision of the record that the peer has seen.
    pub async fn register(&self, lease: LeaseId, known: Option<Revision>) -> Result<Revision, RegisterError> {
        let uuid = self.record.uuid;
        let (server, departed) = (self.keys.server(uuid), self.keys.departed(uuid));
        let json = Record { when: now(), ..self.record.clone() }.to_json();
        loop {
            let note = self.etcd.get(&departed).await?;
            if note.as_ref().zip(known).is_some_and(|(note, known)| is_eviction(note, known)) {
                return Err(RegisterError::Evicted);
            }
            // Nobody may slip an eviction in between.
            let guarded = match &note {
                Some(note) => Transaction::new().modified(&departed, note.modified),
                None => Transaction::new().absent(&departed),
            };
            let outcome = self
                .etcd
                .transact(
                    guarded
                        .then(Operation::put(&server, json.as_str(), Lease::Attach(lease)))
                        .then(Operation::delete(&departed))
                        .or_else(Operation::get(&server)),
                )
                .await?;
            if outcome.succeeded {
                return Ok(outcome.revision);
            }
            // The answer to an attempt that went through may have been lost.
            let stands = outcome.reads.into_iter().flatten().next();
            if let Some(own) = stands.filter(|kv| kv.lease == Some(lease) && kv.value == json.as_bytes()) {
                return Ok(own.modified);
            }
        }
    }

    /// Finds out why the record, last seen at `written` on `lease`, is gone.
    pub async fn verdict(&self, written: Revision, lease: LeaseId) -> Result<Verdict, EtcdError> {
        let uuid = self.record.uuid;
        let departed = self.etcd.get(&self.keys.departed(uuid)).await?;
        let departure = departed.and_then(|kv| Some((Departure::from_json(&kv.value)?, kv.modified)));
        let reset = self.etcd.get(&self.keys.reset()).await?.map(|kv| kv.modified);
        let lease_alive = self.etcd.lease_ttl(lease).await?.is_some();
        Ok(judge(&Evidence { written, departure, reset, lease_alive }))
    }

    /// Leaves: one transaction removes the record, with a note, and the election key; a leader takes itself out of what
    /// it published as well.
    pub async fn leave(&self, lease: LeaseId, led: bool, farewell: &SharedFarewell) -> Result<(), EtcdError> {
        let note_lease = self.etcd.grant_lease(DEPARTED_FOR).await?.id;
        let farewell = match Farewell::take(farewell) {
            None if led => self.farewell_of_predecessor().await?,
            farewell => farewell,
        };
        if let Some(farewell) = farewell {
            let published = farewell.guard(Transaction::new());
            let leaving = farewell.write(self.leaving(published, lease, note_lease));
            if self.etcd.transact(leaving).await?.succeeded {
                return Ok(());
            }
        }
        self.etcd.transact(self.leaving(Transaction::new(), lease, note_lease)).await.map(drop)
    }

    /// A leader that leaves before it published anything takes itself out of what its predecessor published.
    async fn farewell_of_predecessor(&self) -> Result<Option<Farewell>, EtcdError> {
        let key = self.keys.pipeline(&self.record.server);
        let Some(found) = self.etcd.get(&key).await? else { return Ok(None) };
        let pipeline = Pipeline::from_json(&found.value);
        Ok(pipeline.map(|p| Farewell::prepare(key, found.modified, p, self.record.uuid, Lease::Keep)))
    }

    fn leaving(&self, transaction: Transaction, lease: LeaseId, note_lease: LeaseId) -> Transaction {
        let uuid = self.record.uuid;
        let note = note(Why::Itself, "it killed itself");
        transaction
            .then(Operation::delete(&self.keys.server(uuid)))
            .then(Operation::delete(&self.keys.candidate(lease)))
            .then(Operation::put(&self.keys.departed(uuid), note.to_json(), Lease::Attach(note_lease)))
    }

    /// Gives everything back after a person removed the server. Whoever deletes a key by hand leaves no note; without one
    /// the leader could take the lease, which goes here, for one that expired.
    pub async fn give_up(&self, lease: LeaseId) {
        if let Err(error) = self.note_eviction().await {
            log::debug!("no note says that a person removed this server: {error}");
        }
        // The election key is on the lease, and so goes with it.
        self.revoke(lease).await;
    }

    async fn note_eviction(&self) -> Result<(), EtcdError> {
        let departed = self.keys.departed(self.record.uuid);
        if self.etcd.get(&departed).await?.is_some() {
            return Ok(());
        }
        let note = note(Why::Admin, REMOVED_BY_ADMIN).to_json();
        let note_lease = self.etcd.grant_lease(DEPARTED_FOR).await?.id;
        let noting = Transaction::new().absent(&departed);
        self.etcd.transact(noting.then(Operation::put(&departed, note, Lease::Attach(note_lease)))).await.map(drop)
    }

    /// Gives everything back without a note: the record, if it still stands, and the election key are on the lease.
    pub async fn revoke(&self, lease: LeaseId) {
        if let Err(error) = self.etcd.revoke_lease(lease).await {
            log::debug!("lease {lease} was not revoked and will expire: {error}");
        }
    }
}

fn is_eviction(note: &KeyValue, known: Revision) -> bool {
    note.modified > known && Departure::from_json(&note.value).is_some_and(|d| d.why == Why::Admin)
}
