//! Leases with ids chosen by the client, so that a repeated grant does not create a second lease.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use etcd_client::LeaseGrantOptions;
use uuid::Uuid;

use super::{
    Etcd,
    connection::Connection,
    error::{EtcdError, describe},
    history::Response,
};
use palm_proto::types::ids::LeaseId;

/// A new lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Granted {
    /// Its id.
    pub id: LeaseId,
    /// Its TTL, which may be longer than requested.
    pub ttl: Duration,
    /// The moment before the grant was sent: the TTL counts from here.
    pub asked: Instant,
}

/// A lease that is requested until etcd answers. All attempts use the same id, so they create one
/// lease, whichever of them etcd carried out.
#[derive(Debug, Clone)]
pub(crate) struct LeaseRequest {
    id: LeaseId,
    ttl: Duration,
    /// When it was first requested.
    first: Option<Instant>,
    /// Whether the id may have reached etcd.
    sent: Arc<AtomicBool>,
}

impl LeaseRequest {
    /// Creates a request for a lease of this TTL, rounded up to whole seconds.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self {
            id: random_id(),
            ttl,
            first: None,
            sent: Arc::default(),
        }
    }

    /// Returns the id of the lease, if etcd may have granted it.
    pub(crate) fn maybe_granted(&self) -> Option<LeaseId> {
        self.sent.load(Ordering::Relaxed).then_some(self.id)
    }

    #[cfg(test)]
    pub(super) fn with_id(id: LeaseId, ttl: Duration) -> Self {
        Self {
            id,
            ..Self::new(ttl)
        }
    }
}

/// The outcome of one attempt.
enum Outcome {
    /// This attempt created the lease.
    New(Duration),
    /// An earlier attempt, whose response was lost, created it.
    Earlier(Duration),
    /// The lease with that id belongs to another client, or was ours and has expired.
    Unusable,
}

impl Etcd {
    /// Requests a lease. The TTL is rounded up to whole seconds, and etcd extends it to its own
    /// minimum. If the response is lost, the lease may exist until it expires.
    pub(crate) async fn grant_lease(&self, ttl: Duration) -> Result<Granted, EtcdError> {
        self.grant(&mut LeaseRequest::new(ttl)).await
    }

    /// As [`grant_lease`](Self::grant_lease), for a request that can be repeated after a failure.
    pub(crate) async fn grant(&self, request: &mut LeaseRequest) -> Result<Granted, EtcdError> {
        loop {
            let now = Instant::now();
            let first = *request.first.get_or_insert(now);
            let (id, ttl, sent) = (request.id, request.ttl, Arc::clone(&request.sent));
            let outcome = self
                .request(move |connection| attempt(connection, id, ttl, Arc::clone(&sent)))
                .await?;
            match outcome {
                Outcome::New(ttl) => {
                    return Ok(Granted {
                        id,
                        ttl,
                        asked: now,
                    });
                }
                Outcome::Earlier(ttl) => {
                    return Ok(Granted {
                        id,
                        ttl,
                        asked: first,
                    });
                }
                Outcome::Unusable => *request = LeaseRequest::new(ttl),
            }
        }
    }
}

async fn attempt(
    connection: Connection,
    id: LeaseId,
    ttl: Duration,
    sent: Arc<AtomicBool>,
) -> Result<Response<Outcome>, etcd_client::Error> {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    let sent_before = sent.swap(true, Ordering::Relaxed);
    let options = LeaseGrantOptions::new().with_id(id.value());
    let error = match connection
        .client()
        .lease_grant(seconds, Some(options))
        .await
    {
        Ok(granted) => {
            return Ok(Response::by_member(
                granted.header(),
                Outcome::New(whole_seconds(granted.ttl())),
            ));
        }
        Err(error) => error,
    };
    if !describe(&error).contains("lease already exists") {
        return Err(error);
    }
    let found = connection
        .client()
        .lease_time_to_live(id.value(), None)
        .await?;
    let outcome = if sent_before && found.ttl() > 0 {
        Outcome::Earlier(whole_seconds(found.granted_ttl()))
    } else {
        Outcome::Unusable
    };
    Ok(Response::by_member(found.header(), outcome))
}

fn whole_seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Returns a positive number of 63 random bits, unique in the mesh. From the system's randomness:
/// `fastrand` is seeded with the clock, and hosts may start together.
fn random_id() -> LeaseId {
    loop {
        // The fixed bits of a uuid are at different positions in its two halves.
        let (high, low) = Uuid::new_v4().as_u64_pair();
        if let Some(id) = LeaseId::new(((high ^ low) & (u64::MAX >> 1)).cast_signed()) {
            return id;
        }
    }
}
