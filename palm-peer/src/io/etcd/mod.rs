//! etcd: the only user of `etcd-client`, and of the `tokio` that it needs.
//!
//! The crate has no default timeout, sends requests to dead members, never resumes a watch, and
//! needs tokio, while the rest of PALM needs no particular runtime. This module handles all of
//! that. Its futures run on any executor: each request is a task on one thread of our own, and the
//! caller only waits for it.

mod cluster;
mod connecting;
mod connection;
mod convert;
mod diagnosis;
mod endpoint_pool;
mod error;
mod grant;
mod history;
mod keep_alive;
mod life;
mod local_stream;
mod metrics;
mod renewals;
mod settings;
mod target;
mod thread;
mod transaction;
mod watch;
mod watch_stream;
mod watch_task;

#[cfg(test)]
pub(crate) mod tests;

use etcd_client::{SortOrder, SortTarget};
use std::{future::Future, io, sync::Arc, time::Duration};

pub(crate) use self::{
    error::{EtcdError, EtcdErrorKind},
    grant::{Granted, LeaseRequest},
    keep_alive::KeepAlive,
    local_stream::LocalStream,
    metrics::EtcdMetrics,
    renewals::{Renewals, Renewed},
    settings::{EtcdSettings, TlsSource},
    target::Target,
    thread::{AbortOnDrop, Task},
    transaction::{Lease, Operation, Transaction, TxnOutcome},
    watch::Watch,
};
pub(crate) use palm_proto::reflector::{Change, KeyValue, Listing};

use self::{
    connection::Connection,
    convert::{item, items, revision_of},
    endpoint_pool::Pool,
    history::Response,
    thread::Thread,
    transaction::prefix_options,
};
use crate::io::{
    retry,
    tasks::{Name, Supervisor},
};
use palm_proto::{
    backoff::Backoff,
    types::ids::{LeaseId, Revision},
};

/// A handle to etcd. Cheap to clone.
///
/// All clones share one thread, which ends when the last of them (and of the [`Watch`]es and
/// [`KeepAlive`]s made by them) is dropped. Nothing is connected before the first request.
///
/// A request is tried at one endpoint after the other until one answers: the next one when one
/// fails, or beside one that takes much longer than usual
/// ([`Hedging`](palm_proto::hedging::Hedging)). Each may take the request timeout; the time until
/// [`Unreachable`](EtcdErrorKind::Unreachable) is at most that times the number of endpoints (twice
/// that, when connections break at the very end of their time). While all endpoints are slow, but
/// their connections are alive, each may take four times as long. A late request ends no watch and
/// no keep-alive stream. Dropping the future of a request cancels it; it is then unknown whether
/// etcd carries it out.
#[derive(Clone)]
pub(crate) struct Etcd(Arc<Shared>);

struct Shared {
    thread: Thread,
    pool: Arc<Pool>,
    settings: EtcdSettings,
}

impl Etcd {
    /// Starts the thread; does not connect yet. Fails when the settings contradict each other
    /// (`InvalidInput`), or the system refuses a thread.
    pub(crate) fn start(thread_name: &str, settings: EtcdSettings) -> io::Result<Self> {
        settings.check()?;
        Self::start_with(thread_name, settings, None)
    }

    fn start_with(
        thread_name: &str,
        settings: EtcdSettings,
        beside: Option<&Pool>,
    ) -> io::Result<Self> {
        let thread = Thread::start(thread_name)?;
        let pool = Arc::new(Pool::new(settings.clone(), thread.handle(), beside));
        Ok(Self(Arc::new(Shared {
            thread,
            pool,
            settings,
        })))
    }

    /// Returns another handle to the same etcd, with its own thread and connections: its work does
    /// not delay the renewals of others. Fails when the system refuses a thread.
    pub(crate) fn beside(&self, thread_name: &str) -> io::Result<Self> {
        Self::start_with(thread_name, self.0.settings.clone(), Some(self.pool()))
    }

    /// Returns the counters of this etcd.
    pub(crate) fn metrics(&self) -> &EtcdMetrics {
        &self.pool().metrics
    }

    /// Runs a future on etcd's thread. It must not block: leases are renewed there.
    ///
    /// It runs until it ends, is aborted, or the thread ends; a clone of this handle inside it
    /// keeps the thread running. A panic is logged with the name.
    pub(crate) fn spawn<F>(&self, name: Name, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.0.thread.spawn(name, future)
    }

    /// As [`spawn`](Self::spawn), for tasks that must always run: after a panic, it is restarted.
    /// Dropping the returned handle ends it.
    pub(crate) fn keep<F>(
        &self,
        supervisor: &Supervisor,
        name: Name,
        start: impl FnMut() -> F + Send + 'static,
    ) -> AbortOnDrop<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.0.thread.keep(supervisor, name, start)
    }

    /// Reads one key.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<KeyValue>, EtcdError> {
        let key = key.to_owned();
        self.request(move |connection| {
            let key = key.clone();
            async move {
                let found = connection.kv().get(key, None).await?;
                Ok(Response::by_quorum(
                    found.header(),
                    found.kvs().first().and_then(item),
                ))
            }
        })
        .await
    }

    /// Reads all keys with this prefix, sorted; all keys of etcd if it is empty.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Listing, EtcdError> {
        let prefix = prefix.to_owned();
        self.request(move |connection| {
            let prefix = prefix.clone();
            async move {
                let options = prefix_options(&prefix);
                let found = connection.kv().get(prefix, Some(options)).await?;
                let listing = Listing {
                    revision: revision_of(found.header()),
                    items: items(found.kvs()),
                };
                Ok(Response::by_quorum(found.header(), listing))
            }
        })
        .await
    }

    /// Reads up to `max` keys with this prefix: the latest first, of those created no
    /// later than `before`.
    pub(crate) async fn list_latest(
        &self,
        prefix: &str,
        before: Option<Revision>,
        max: usize,
    ) -> Result<Vec<KeyValue>, EtcdError> {
        let prefix = prefix.to_owned();
        self.request(move |connection| {
            let prefix = prefix.clone();
            async move {
                let options = prefix_options(&prefix)
                    // 0 means no limit.
                    .with_max_create_revision(before.map_or(0, |revision| revision.0))
                    .with_sort(SortTarget::Create, SortOrder::Descend)
                    .with_limit(i64::try_from(max).unwrap_or(i64::MAX));
                let found = connection.kv().get(prefix, Some(options)).await?;
                Ok(Response::by_quorum(found.header(), items(found.kvs())))
            }
        })
        .await
    }

    /// Runs a transaction.
    ///
    /// An attempt whose response is lost is repeated, so a guarded transaction may return
    /// `succeeded: false` although its first attempt succeeded: see [`TxnOutcome::succeeded`]. One
    /// without guards may run twice; its operations (put, delete) are idempotent.
    pub(crate) async fn transact(&self, transaction: Transaction) -> Result<TxnOutcome, EtcdError> {
        self.request(move |connection| {
            let transaction = transaction.to_etcd();
            async move {
                let response = connection.kv().txn(transaction).await?;
                Ok(Response::by_quorum(
                    response.header(),
                    TxnOutcome::from_etcd(&response),
                ))
            }
        })
        .await
    }

    /// Revokes a lease, which deletes every key on it. A lease that is gone already
    /// is not an error.
    pub(crate) async fn revoke_lease(&self, id: LeaseId) -> Result<(), EtcdError> {
        let revoked = self
            .request(move |connection| async move {
                let revoked = connection.client().lease_revoke(id.value()).await?;
                Ok(Response::by_member(revoked.header(), ()))
            })
            .await;
        match revoked {
            Err(error) if error.kind() == EtcdErrorKind::LeaseGone => Ok(()),
            result => result,
        }
    }

    /// Returns the remaining TTL of a lease, in whole seconds. `None`: it is gone.
    pub(crate) async fn lease_ttl(&self, id: LeaseId) -> Result<Option<Duration>, EtcdError> {
        let left = self
            .request(move |connection| async move {
                let lease = connection
                    .client()
                    .lease_time_to_live(id.value(), None)
                    .await?;
                // etcd returns -1 for a lease that is gone.
                let ttl = u64::try_from(lease.ttl()).ok().map(Duration::from_secs);
                Ok(Response::by_member(lease.header(), ttl))
            })
            .await;
        match left {
            Err(error) if error.kind() == EtcdErrorKind::LeaseGone => Ok(None),
            result => result,
        }
    }

    /// Opens a keep-alive stream to one endpoint, with a first renewal. Fails with
    /// [`LeaseGone`](EtcdErrorKind::LeaseGone) when there is no such lease.
    pub(crate) async fn keep_alive(&self, id: LeaseId) -> Result<KeepAlive, EtcdError> {
        KeepAlive::open(self, id).await
    }

    /// Watches a key or a prefix, beginning with the existing keys.
    pub(crate) fn watch(&self, target: Target) -> Watch {
        Watch::start(self.clone(), target)
    }

    /// Returns the number of etcd's history, from 0: a new one begins when etcd goes back to an
    /// earlier revision, as when a backup is restored, or when another cluster replaces it.
    /// Revisions of different histories cannot be compared.
    pub(crate) fn epoch(&self) -> u64 {
        self.pool().history.epoch()
    }

    /// Waits until the history is not that of `epoch` any more. Cancel safe.
    pub(crate) async fn history_after(&self, epoch: u64) -> u64 {
        let mut epochs = self.pool().history.epochs();
        let found = epochs
            .wait_for(|found| *found != epoch)
            .await
            .map(|found| *found);
        // The sender lives as long as this handle.
        found.unwrap_or(epoch)
    }

    /// Logs the failure of a request that will be retried: a permanent refusal as a warning, at
    /// once and then once a minute, because an administrator must act; anything else at DEBUG,
    /// because it passes. `what` begins the line.
    pub(crate) fn log_failure(&self, what: &str, error: &EtcdError) {
        self.pool().log_failure(what, error);
    }

    /// Repeats a request until it succeeds, and logs each failure: `what` begins the line.
    pub(crate) async fn retry<T, F>(
        &self,
        what: &str,
        backoff: Backoff,
        mut request: impl FnMut() -> F,
    ) -> T
    where
        F: Future<Output = Result<T, EtcdError>>,
    {
        retry::until_some(backoff, || {
            let request = request();
            async move {
                request
                    .await
                    .inspect_err(|error| self.log_failure(what, error))
                    .ok()
            }
        })
        .await
    }

    /// Runs a request with failover between the endpoints, on etcd's thread.
    async fn request<T, F, Fut>(&self, request: F) -> Result<T, EtcdError>
    where
        T: Send + 'static,
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<T>, etcd_client::Error>> + Send + 'static,
    {
        let pool = self.0.pool.clone();
        self.on_thread(async move { pool.try_endpoints(request).await })
            .await
    }

    /// As the method above, at one endpoint alone.
    async fn request_at<T, F, Fut>(&self, endpoint: usize, request: F) -> Result<T, EtcdError>
    where
        T: Send + 'static,
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<T>, etcd_client::Error>> + Send + 'static,
    {
        let pool = self.0.pool.clone();
        self.on_thread(async move { pool.try_endpoint(endpoint, request).await })
            .await
    }

    /// Runs a request on etcd's thread.
    async fn on_thread<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, EtcdError>> + Send + 'static,
    ) -> Result<T, EtcdError> {
        let task = self.spawn(Name::EtcdRequest, request);
        // The thread lives as long as this handle, and nothing else can abort the task: only a
        // panic ends it early.
        let result = AbortOnDrop(task).await.unwrap_or_else(|lost| {
            Err(EtcdError::definite(
                EtcdErrorKind::Other,
                "PALM itself",
                lost.to_string(),
            ))
        });
        result.inspect_err(|error| self.metrics().failed(error.kind()))
    }

    fn pool(&self) -> &Arc<Pool> {
        &self.0.pool
    }

    /// Returns a future that ends after this time, on any executor.
    fn timer(&self, after: Duration) -> impl Future<Output = ()> + Send + use<> {
        self.0.thread.timer(after)
    }
}
