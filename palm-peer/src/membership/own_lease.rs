//! The lease that a peer registers on: the same one for all attempts.

use super::context::LEAVE_WITHIN;
use crate::{
    io::{
        etcd::{Etcd, EtcdError, EtcdErrorKind, Granted, LeaseRequest},
        timer,
    },
    leader::{
        SharedClock,
        tombstones::{self, OWN_LEASE},
    },
};
use palm_proto::{lease::LeaseClock, removal::LastWritten, types::ids::LeaseId};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// How long revoking a lease may take if it is unknown whether etcd granted it.
const UNSURE_WITHIN: Duration = Duration::from_millis(500);

/// A registration under a lease.
#[derive(Clone)]
pub(crate) struct Registration {
    /// The lease that the record is on.
    pub(crate) lease: LeaseId,
    /// The clock that says until when the lease is held.
    pub(crate) clock: SharedClock,
    /// The last write of the record.
    pub(crate) written: LastWritten,
}

/// A lease that is requested, and kept from one attempt to register to the next.
pub(crate) struct OwnLease {
    etcd: Etcd,
    ttl: Duration,
    request: LeaseRequest,
    granted: Option<Granted>,
}

impl OwnLease {
    /// Creates a lease of this TTL, without requesting it yet.
    pub(crate) fn new(etcd: &Etcd, ttl: Duration) -> Self {
        Self {
            etcd: etcd.clone(),
            ttl,
            request: LeaseRequest::new(ttl),
            granted: None,
        }
    }

    /// Requests the lease, or renews it, if an earlier attempt left it with less than two
    /// thirds of its TTL.
    pub(crate) async fn hold(&mut self) -> Result<(LeaseId, SharedClock), EtcdError> {
        if let Some(granted) = self.granted
            && Instant::now() >= clock(&granted).renew_at()
        {
            match self.renew(granted.id).await? {
                Some(granted) => self.granted = Some(granted),
                None => self.forget(),
            }
        }
        let granted = match self.granted {
            Some(granted) => granted,
            None => self.etcd.grant(&mut self.request).await?,
        };
        self.granted = Some(granted);
        Ok((granted.id, Arc::new(Mutex::new(clock(&granted)))))
    }

    async fn renew(&self, id: LeaseId) -> Result<Option<Granted>, EtcdError> {
        let mut stream = match self.etcd.keep_alive(id).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == EtcdErrorKind::LeaseGone => return Ok(None),
            Err(error) => return Err(error),
        };
        let asked = Instant::now();
        Ok(stream.renew().await?.map(|ttl| Granted { id, ttl, asked }))
    }

    /// Requests another lease next time: etcd does not have this one any more.
    pub(crate) fn forget(&mut self) {
        self.request = LeaseRequest::new(self.ttl);
        self.granted = None;
    }

    /// Revokes the lease that etcd may have granted, which also deletes the record,
    /// if that was put.
    pub(crate) async fn give_back(self) {
        let Some(id) = self.request.maybe_granted() else {
            return;
        };
        let timeout = if self.granted.is_some() {
            LEAVE_WITHIN
        } else {
            UNSURE_WITHIN
        };
        let _ = timer::timeout(timeout, tombstones::revoke(&self.etcd, id, OWN_LEASE)).await;
    }
}

fn clock(granted: &Granted) -> LeaseClock {
    LeaseClock::granted(granted.asked, granted.ttl)
}
