//! Tests against a real etcd: each known pitfall of it and of the crate has one.
//!
//! The futures are driven by the bare executor of `futures`: no test has a tokio context.

mod auth;
mod failing;
mod leases;
mod one_stream;
mod requests;
mod slow;
mod tls;
mod watches;
mod watches_broken;

use std::{future::Future, time::Duration};

use palm_proto::types::ids::LeaseId;
use palm_tests::SlowAnswers;

use super::{Change, Etcd, EtcdError, EtcdSettings, KeyValue, Watch};

/// The default bound of waits.
const PATIENCE: Duration = Duration::from_secs(15);

/// Returns a handle to these endpoints.
fn handle(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Etcd {
    Etcd::start("palm-etcd", EtcdSettings::new(endpoints)).expect("a thread")
}

/// An etcd, a proxy that can lose a response, and a connected handle behind it.
pub(crate) fn with_lossy_proxy() -> (palm_tests::Etcd, SlowAnswers, Etcd) {
    let server = palm_tests::Etcd::start();
    let between = SlowAnswers::start(server.address());
    let etcd = handle([between.endpoint()]);
    futures::executor::block_on(etcd.get("/a")).expect("connected");
    (server, between, etcd)
}

/// The leases that etcd has.
pub(crate) fn leases_at(server: &palm_tests::Etcd) -> Vec<LeaseId> {
    let found = server.etcdctl(&["lease", "list"]);
    found
        .lines()
        .skip(1)
        .map(|id| id.parse().expect("a lease"))
        .collect()
}

/// Runs a future on a bare executor, bounded in time.
fn wait<T>(etcd: &Etcd, future: impl Future<Output = T>) -> T {
    within(etcd, PATIENCE, future)
}

/// The same, with another bound.
#[track_caller]
fn within<T>(etcd: &Etcd, bound: Duration, future: impl Future<Output = T>) -> T {
    use futures::future::{Either, select};
    futures::executor::block_on(async {
        let timer = etcd.timer(bound);
        futures::pin_mut!(future, timer);
        match select(future, timer).await {
            Either::Left((value, _)) => value,
            Either::Right(_) => panic!("nothing within {bound:?}"),
        }
    })
}

/// Puts a key without a lease.
async fn put(etcd: &Etcd, key: &str, value: &str) -> Result<(), EtcdError> {
    use super::{Lease, Operation, Transaction};
    etcd.transact(Transaction::new().then(Operation::put(key, value, Lease::None)))
        .await
        .map(|_| ())
}

/// Returns a change in short form: `+key=value`, `-key`, `listed`, `interrupted`.
fn short(change: &Change) -> String {
    let value = |item: &KeyValue| String::from_utf8_lossy(&item.value).into_owned();
    match change {
        Change::Put { current, .. } => format!("+{}={}", current.key, value(current)),
        Change::Deleted { previous, .. } => format!("-{}", previous.key),
        Change::Listed { .. } => "listed".to_owned(),
        Change::Stale { .. } => "interrupted".to_owned(),
        Change::NewHistory => "new history".to_owned(),
    }
}

/// Returns the next changes in short form, up to and including `last`.
#[track_caller]
fn told(etcd: &Etcd, watch: &mut Watch, last: &str) -> Vec<String> {
    wait(etcd, async {
        let mut changes = Vec::new();
        while changes.last().is_none_or(|change| change != last) {
            changes.push(short(&watch.next().await));
        }
        changes
    })
}
