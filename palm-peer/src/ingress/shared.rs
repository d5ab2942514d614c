//! What the tasks of the ingress share.

use super::{
    connection_table::ConnectionTable, inbox::Inbox, inner::Inner, metrics::IngressMetrics,
};
use crate::{
    io::{executor, tasks::Name, timer, tls::Credentials},
    sync::lock,
};
use futures::{
    channel::oneshot,
    future::{Shared as SharedFuture, select},
    task::AtomicWaker,
};
use palm_proto::{limits::connection_limiter::ConnectionLimiter, zmtp::frames::Limits};
use std::{
    fs::File,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicU64},
    task::Poll,
    time::Duration,
};

/// The wait before accepting is tried again when no descriptor was left and none of
/// ours was closed.
pub(super) const RETRY: Duration = Duration::from_millis(250);

/// The state shared by the tasks of the ingress.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) admission: Mutex<ConnectionLimiter>,
    pub(super) table: Arc<ConnectionTable>,
    pub(super) metrics: Arc<IngressMetrics>,
    /// The credentials for TLS, if it is used.
    pub(super) credentials: Option<Arc<Credentials>>,
    /// The number of the next connection, which becomes its identity.
    pub(super) connections: AtomicU64,
    /// Notified when a connection has ended.
    pub(super) ended: AtomicWaker,
    /// Ends when the ingress closes.
    pub(super) closing: SharedFuture<oneshot::Receiver<()>>,
    /// The messages of native connections.
    pub(super) inbox: Arc<Inbox>,
    /// The inner socket to `ZeroMQ`, for one connection at a time.
    pub(super) inner: futures::lock::Mutex<Inner>,
    /// Duplicated to reserve descriptors.
    pub(super) spare: File,
}

impl Shared {
    /// The open connections, for the limits on their number.
    pub(super) fn admission(&self) -> MutexGuard<'_, ConnectionLimiter> {
        lock(&self.admission)
    }

    /// Waits until a connection has ended, at most for a moment: descriptors may be released
    /// elsewhere too, and of several waiting tasks only the last is woken.
    pub(super) async fn released(&self) {
        let mut first = true;
        let ended = poll_fn(|cx| {
            self.ended.register(cx.waker());
            if std::mem::take(&mut first) {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        });
        select(ended, timer::sleep(RETRY)).await;
    }

    /// Carries a part of one connection. A panic is that connection's end, and nobody else's.
    pub(super) fn carry(&self, name: Name, part: impl Future<Output = ()> + Send + 'static) {
        let metrics = Arc::clone(&self.metrics);
        executor::spawn_or(name, part, move || metrics.panicked());
    }
}
