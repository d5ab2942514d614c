//! What is watched, and how much of it may wait for a reader.

use etcd_client::{GetOptions, WatchOptions};

use super::transaction::prefix_options;
use palm_proto::types::ids::Revision;

/// How many pieces of news may wait for a reader. With more the watch is let go, and lists anew once the reader has
/// caught up: so neither our memory nor etcd's grows by a reader that is slow, and the connection, which renewals of
/// leases share, is never clogged by news that nobody reads.
pub(super) const NEWS_IN_LINE: usize = 1024;

/// What to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// One key.
    Key(String),
    /// All keys that begin so; all keys of etcd's if empty.
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
        options.with_start_revision(from.0).with_progress_notify().with_fragment()
    }
}
