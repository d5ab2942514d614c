//! Checks the header of every response: which cluster answers, and whether its history went back.

use std::sync::{Mutex, MutexGuard, PoisonError};

use etcd_client::ResponseHeader;
use tokio::{sync::watch, time::Instant};

use palm_proto::{
    etcd_history::{ClusterId, EtcdHistory, Header, HistoryStatus, Sent},
    limits::log_throttle::{LogThrottle, Suppressed},
    types::ids::Revision,
};

/// A response with its header.
pub(super) struct Response<T> {
    /// `None` when the crate does not expose it.
    pub(super) header: Option<Header>,
    pub(super) value: T,
}

impl<T> Response<T> {
    /// Creates the response to a range or a transaction, which is linearizable.
    pub(super) fn by_quorum(header: Option<&ResponseHeader>, value: T) -> Self {
        let revision = header.map(|header| Revision(header.revision()));
        Self {
            header: Some(Header {
                cluster: cluster_of(header),
                revision,
            }),
            value,
        }
    }

    /// Creates the response of a single member, which may lag.
    pub(super) fn by_member(header: Option<&ResponseHeader>, value: T) -> Self {
        Self {
            header: Some(member_header(header)),
            value,
        }
    }
}

/// Returns the header of a response of a single member.
pub(super) fn member_header(header: Option<&ResponseHeader>) -> Header {
    Header {
        cluster: cluster_of(header),
        revision: None,
    }
}

/// Returns the cluster in a header, which etcd always sets.
pub(super) fn cluster_of(header: Option<&ResponseHeader>) -> ClusterId {
    ClusterId(header.map_or(0, ResponseHeader::cluster_id))
}

/// What the users of one handle know about etcd's history.
pub(super) struct History {
    state: Mutex<EtcdHistory>,
    epochs: watch::Sender<u64>,
    logged: Mutex<LogThrottle<String>>,
}

impl History {
    pub(super) fn new(state: EtcdHistory) -> Self {
        Self {
            state: Mutex::new(state),
            epochs: watch::channel(0).0,
            logged: Mutex::default(),
        }
    }

    /// The state is plain data, and consistent after each call.
    fn state(&self) -> MutexGuard<'_, EtcdHistory> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_known(&self) -> bool {
        self.state().is_known()
    }

    pub(super) fn identify(&self, reported: &[Option<ClusterId>]) {
        self.state().identify(reported);
    }

    /// Returns what is known now, to be kept with a request until its response.
    pub(super) fn sent(&self) -> Sent {
        self.state().sent()
    }

    pub(super) fn epoch(&self) -> u64 {
        *self.epochs.borrow()
    }

    /// Notifies of each new history.
    pub(super) fn epochs(&self) -> watch::Receiver<u64> {
        self.epochs.subscribe()
    }

    /// Returns whether the response may be used; an error when it comes from another cluster.
    pub(super) fn accept(
        &self,
        endpoint: usize,
        url: &str,
        sent: Sent,
        header: Header,
    ) -> Result<bool, String> {
        let (verdict, epoch) = {
            let mut state = self.state();
            (
                state.received(endpoint, sent, header, Instant::now().into_std()),
                state.epoch(),
            )
        };
        match verdict {
            HistoryStatus::Same => return Ok(true),
            HistoryStatus::Outdated => return Ok(false),
            HistoryStatus::Foreign { known } => {
                let reason = format!(
                    "cluster {} answers there, and not cluster {known} as before",
                    header.cluster
                );
                if let Some(suppressed) = self.should_log(format!("{url} {}", header.cluster)) {
                    log::warn!(
                        "etcd at {url} is another cluster: {reason}; its responses are not used: name the \
                         endpoints of one cluster only; docs/operations.md has more under \"Another cluster\"{suppressed}"
                    );
                }
                return Err(reason);
            }
            HistoryStatus::WentBack { from, to } => log::warn!(
                "etcd's history went back from revision {from} to {to}, as when a backup is restored: registering and \
                 listing again"
            ),
            HistoryStatus::Replaced { known } => log::warn!(
                "cluster {known} of etcd did not answer any more, and cluster {} at {url} takes its place: registering and \
                 listing again",
                header.cluster
            ),
        }
        self.epochs.send_replace(epoch);
        Ok(true)
    }

    /// A watch found an older version of a key than before: the history of that `epoch` is over.
    pub(super) fn went_back(&self, epoch: u64, evidence: &str) {
        let mut state = self.state();
        if state.went_back(epoch) {
            log::warn!(
                "etcd's history went back ({evidence}), as when a backup is restored: registering and listing again"
            );
            self.epochs.send_replace(state.epoch());
        }
    }

    /// Returns whether to log this now as a warning, and not only at DEBUG.
    pub(super) fn should_log(&self, what: String) -> Option<Suppressed> {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.should_log(what, Instant::now().into_std())
    }
}
