//! The target of a watch, and its buffer limit.

use etcd_client::{GetOptions, WatchOptions};

use super::transaction::prefix_options;
use palm_proto::types::ids::Revision;

/// How many updates may wait for a reader. With more, the watch is cancelled and lists again once
/// the reader has caught up: so a slow reader costs memory neither here nor in etcd, and never
/// blocks the connection, which lease renewals share.
pub(super) const MAX_UNREAD: usize = 1024;

/// What to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// One key.
    Key(String),
    /// All keys with this prefix; all keys of etcd if it is empty.
    Prefix(String),
}

impl Target {
    pub(super) fn key(&self) -> &str {
        match self {
            Self::Key(key) | Self::Prefix(key) => key,
        }
    }

    pub(super) fn get_options(&self) -> GetOptions {
        match self {
            Self::Key(_) => GetOptions::new(),
            Self::Prefix(prefix) => prefix_options(prefix),
        }
    }

    pub(super) fn watch_options(&self, from: Revision) -> WatchOptions {
        let options = match self {
            Self::Key(_) => WatchOptions::new(),
            Self::Prefix(prefix) if prefix.is_empty() => WatchOptions::new().with_all_keys(),
            Self::Prefix(_) => WatchOptions::new().with_prefix(),
        };
        options
            .with_start_revision(from.0)
            .with_progress_notify()
            .with_fragment()
    }
}
