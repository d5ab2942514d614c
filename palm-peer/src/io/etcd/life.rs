//! Whether a connection lives. A slow answer proves nothing, and ends no stream.

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

/// How long requests have more patience after one was slow over a connection that lives.
const SLOW_FOR: Duration = Duration::from_secs(60);

/// Why to look whether a connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// An answer is late.
    Slow,
    /// A request failed, or its token was stale: the next request opens another connection.
    Failed,
}

/// What all who use a connection know of it.
#[derive(Clone)]
pub(super) struct Life(Arc<Shared>);

struct Shared {
    /// It swallows what is sent: streams on it end.
    silent: watch::Sender<bool>,
    /// Sent to when something comes over it.
    received: watch::Sender<()>,
    /// Until when it is known to be slow.
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

    /// Something came over the connection.
    pub(super) fn received(&self) {
        self.0.received.send_replace(());
    }

    /// Whether answers were late a short while ago, although the connection lived.
    pub(super) fn is_slow(&self) -> bool {
        self.0.slow.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    /// Ends once the connection is known to be silent. Cancel safe.
    pub(super) async fn silent(&self) {
        // The sender lives as long as this.
        let _ = self.0.silent.subscribe().wait_for(|silent| *silent).await;
    }

    /// Tells of each check, in which a stream helps that asks for a sign of life.
    pub(super) fn checks(&self) -> watch::Receiver<u64> {
        self.0.checks.subscribe()
    }

    /// Looks whether the connection lives: it is silent when nothing at all comes over it within `limit`, not even the answer to
    /// a question for which a member needs neither its disk nor the other members.
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
                    // That this request was broken off proves nothing for the streams, which hear of it if the connection is.
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
                *life.0.slow.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + SLOW_FOR);
            }
        };
        spawn_on(thread, Name::EtcdRequest, check);
    }
}
