//! Owns the lease: renews it, and reports when it is in doubt or lost.

use super::MembershipMetrics;
use crate::{
    io::{
        etcd::{Etcd, EtcdError, Renewals, Renewed},
        timer,
    },
    leader::SharedClock,
    sync::lock,
};
use futures::{
    channel::mpsc,
    future::{Either, select},
    pin_mut,
};
use palm_proto::{backoff::Backoff, types::ids::LeaseId};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A timer that fires this late means that the process was paused, and says nothing about etcd.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// The waits between attempts to renew. Several of the longest fit into what is left of a lease
/// when its first renewal fails.
const BACKOFF: Backoff =
    Backoff::full_jitter(Duration::from_millis(100), Duration::from_millis(1500));

/// An event of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LeaseNews {
    /// It may have run out, for this reason: a leader stops now.
    InDoubt(String),
    /// It was in doubt, and is held again.
    HeldAgain,
    /// It is gone from etcd.
    Lost,
}

/// Renews the lease until it is lost.
pub(super) async fn keep(
    etcd: Etcd,
    lease: LeaseId,
    clock: SharedClock,
    metrics: Arc<MembershipMetrics>,
    tx: mpsc::UnboundedSender<LeaseNews>,
) {
    let reporter = etcd.clone();
    let mut keeper = Keeper {
        renewals: Renewals::new(etcd, lease),
        clock: Arc::clone(&clock),
        failures: 0,
    };
    let mut in_doubt = false;
    let mut last_error =
        String::from("there was no answer: etcd is slow, or this process stood still");
    loop {
        let snapshot = *lock(&clock);
        let attempt = keeper.attempt(snapshot.renew_at());
        pin_mut!(attempt);
        let answer = if in_doubt {
            attempt.await
        } else {
            match select(attempt, timer::sleep_until(snapshot.held_until())).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right(((), attempt)) => {
                    in_doubt = true;
                    let late = Instant::now().saturating_duration_since(snapshot.held_until());
                    let why = if late > STOOD_STILL {
                        format!(
                            "this process, or its machine, stood still for {late:.1?} or longer"
                        )
                    } else {
                        last_error.clone()
                    };
                    let _ = tx.unbounded_send(LeaseNews::InDoubt(why));
                    attempt.await
                }
            }
        };
        match answer {
            Ok(Some(Renewed { sent, ttl })) => {
                metrics.renewals.increment();
                lock(&clock).renewed(sent, ttl);
            }
            Ok(None) => {
                let _ = tx.unbounded_send(LeaseNews::Lost);
                return;
            }
            Err(error) => {
                metrics.renewal_failures.increment();
                // An outage is logged once. A refusal is logged each time, since an
                // administrator must act.
                let message = error.to_string();
                if message != last_error || error.is_refusal() {
                    reporter.log_failure("renewing the lease", &error);
                    last_error = message;
                }
            }
        }
        if in_doubt && lock(&clock).is_held(Instant::now()) {
            in_doubt = false;
            let _ = tx.unbounded_send(LeaseNews::HeldAgain);
        }
    }
}

struct Keeper {
    renewals: Renewals,
    clock: SharedClock,
    failures: u32,
}

impl Keeper {
    /// Waits until a renewal is due, and tries it. Returns etcd's response; `None`:
    /// the lease is gone.
    async fn attempt(&mut self, due: Instant) -> Result<Option<Renewed>, EtcdError> {
        if self.failures == 0 {
            timer::sleep_until(due).await;
        } else {
            timer::sleep(BACKOFF.wait(self.failures - 1, fastrand::f64())).await;
        }
        let clock = &self.clock;
        let hedge_after = |now| lock(clock).hedge_after(now);
        let answer = self.renewals.renew(hedge_after).await;
        self.failures = if answer.is_err() {
            self.failures + 1
        } else {
            0
        };
        answer
    }
}
