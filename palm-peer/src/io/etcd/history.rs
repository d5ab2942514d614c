//! Which cluster answers, and whether its history went back: looks at the header of every answer.

use std::sync::{Mutex, MutexGuard, PoisonError};

use etcd_client::ResponseHeader;
use tokio::{sync::watch, time::Instant};

use palm_proto::{
    etcd_history::{ClusterId, EtcdHistory, Header, HistoryStatus, Sent},
    limits::log_throttle::{LogThrottle, Suppressed},
    types::ids::Revision,
};

/// What an answer said beside its header.
pub(super) struct Response<T> {
    /// None when the crate keeps it.
    pub(super) header: Option<Header>,
    pub(super) value: T,
}

impl<T> Response<T> {
    /// The answer to a range or a transaction: a quorum agreed on its revision.
    pub(super) fn by_quorum(header: Option<&ResponseHeader>, value: T) -> Self {
        let revision = header.map(|header| Revision(header.revision()));
        Self { header: Some(Header { cluster: cluster_of(header), revision }), value }
    }

    /// An answer that one member gave alone, which may lag.
    pub(super) fn by_member(header: Option<&ResponseHeader>, value: T) -> Self {
        Self { header: Some(member_header(header)), value }
    }
}

/// The header of an answer that one member gave alone.
pub(super) fn member_header(header: Option<&ResponseHeader>) -> Header {
    Header { cluster: cluster_of(header), revision: None }
}

/// The cluster in a header. etcd sets it always.
pub(super) fn cluster_of(header: Option<&ResponseHeader>) -> ClusterId {
    ClusterId(header.map_or(0, ResponseHeader::cluster_id))
}

/// What all who talk to etcd through one handle know of its history.
pub(super) struct History {
    state: Mutex<EtcdHistory>,
    epochs: watch::Sender<u64>,
    logged: Mutex<LogThrottle<String>>,
}

impl History {
    pub(super) fn new(state: EtcdHistory) -> Self {
        Self { state: Mutex::new(state), epochs: watch::channel(0).0, logged: Mutex::default() }
    }

    /// The state is plain data, and whole after each call.
    fn state(&self) -> MutexGuard<'_, EtcdHistory> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_known(&self) -> bool {
        self.state().is_known()
    }

    pub(super) fn identify(&self, reported: &[Option<ClusterId>]) {
        self.state().identify(reported);
    }

    /// To be kept with a request until its answer.
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

    /// Whether the answer may be used; why not, when it is another cluster's.
    pub(super) fn accept(&self, endpoint: usize, url: &str, sent: Sent, header: Header) -> Result<bool, String> {
        let (verdict, epoch) = {
            let mut state = self.state();
            (state.received(endpoint, sent, header, Instant::now().into_std()), state.epoch())
        };
        match verdict {
            HistoryStatus::Same => return Ok(true),
            HistoryStatus::Outdated => return Ok(false),
            HistoryStatus::Foreign { known } => {
                let reason = format!("cluster {} answers there, and not cluster {known} as before", header.cluster);
                if let Some(suppressed) = self.should_log(format!("{url} {}", header.cluster)) {
                    log::warn!(
                        "etcd at {url} is another cluster: {reason}; nothing that it says is used: name the endpoints of one \
                         cluster only; docs/operations.md says more under \"Another cluster\"{suppressed}"
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

    /// A watch found a key in a state that is older than what it told before: the history of that `epoch` is over.
    pub(super) fn went_back(&self, epoch: u64, evidence: &str) {
        let mut state = self.state();
        if state.went_back(epoch) {
            log::warn!(
                "etcd's history went back ({evidence}), as when a backup is restored: registering and listing again"
            );
            self.epochs.send_replace(state.epoch());
        }
    }

    /// Whether to log this now, and not only at the level of details.
    pub(super) fn should_log(&self, what: String) -> Option<Suppressed> {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.should_log(what, Instant::now().into_std())
    }
}
