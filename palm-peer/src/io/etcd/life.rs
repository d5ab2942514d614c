//! Whether a connection is alive. A slow response proves nothing, and ends no stream.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use etcd_client::Client;
use futures::future::{Either, pending, select};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    error::{Recovery, classify},
    thread::spawn_on,
};
use crate::io::tasks::Name;

/// How long the request timeout is extended after a slow response over a live connection.
const SLOW_FOR: Duration = Duration::from_secs(60);

/// Why a connection is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// A response is late.
    Slow,
    /// A request failed, or its token was stale: the next request opens another connection.
    Failed,
}

/// The shared state of a connection.
#[derive(Clone)]
pub(super) struct Life(Arc<Shared>);

struct Shared {
    /// It is black-holed: streams on it end.
    silent: watch::Sender<bool>,
    /// Notified when something arrives.
    received: watch::Sender<()>,
    /// Until when it counts as slow.
    slow: Mutex<Option<Instant>>,
    checking: AtomicBool,
    /// Counts the checks.
    checks: watch::Sender<u64>,
}

impl Life {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            silent: watch::channel(false).0,
            received: watch::channel(()).0,
            slow: Mutex::new(None),
            checking: AtomicBool::new(false),
            checks: watch::channel(0).0,
        }))
    }

    pub(super) fn is_silent(&self) -> bool {
        *self.0.silent.borrow()
    }

    /// Records that something arrived.
    pub(super) fn received(&self) {
        self.0.received.send_replace(());
    }

    /// Returns whether responses were late a short while ago, although the connection was alive.
    pub(super) fn is_slow(&self) -> bool {
        self.0
            .slow
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some_and(|until| Instant::now() < until)
    }

    /// Another member answered a request that was late here, so etcd as a whole is not slow.
    pub(super) fn not_slow(&self) {
        *self.0.slow.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Ends once the connection is known to be dead. Cancel safe.
    pub(super) async fn silent(&self) {
        // The sender lives as long as this.
        let _ = self.0.silent.subscribe().wait_for(|silent| *silent).await;
    }

    /// Notifies of each check, to which a stream contributes by a request that must be answered.
    pub(super) fn checks(&self) -> watch::Receiver<u64> {
        self.0.checks.subscribe()
    }

    /// Checks whether the connection is alive: it is dead when nothing arrives within `limit`, not
    /// even the response to a request that a member answers without its disk and the other members.
    pub(super) fn check(&self, thread: &Handle, doubt: Doubt, client: Client, limit: Duration) {
        if doubt == Doubt::Slow && self.0.checking.swap(true, Ordering::Relaxed) {
            return;
        }
        let life = self.clone();
        let check = async move {
            let mut received = life.0.received.subscribe();
            life.0.checks.send_modify(|checks| *checks += 1);
            let mut client = client;
            let status = async {
                match client.status().await {
                    // The end of this request proves nothing about the streams, which notice by
                    // themselves if the connection broke.
                    Err(error) if classify(&error) == Recovery::Broken => pending().await,
                    Ok(_) | Err(_) => {}
                }
            };
            let received = async { received.changed().await.is_ok() };
            tokio::pin!(status, received);
            let lives = match timeout(limit, select(status, received)).await {
                Ok(Either::Left(_)) => true,
                Ok(Either::Right((received, _))) => received,
                Err(_) => false,
            };
            if doubt == Doubt::Slow {
                life.0.checking.store(false, Ordering::Relaxed);
            }
            if !lives {
                life.0.silent.send_replace(true);
            } else if doubt == Doubt::Slow {
                *life.0.slow.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(Instant::now() + SLOW_FOR);
            }
        };
        spawn_on(thread, Name::EtcdRequest, check);
    }
}
