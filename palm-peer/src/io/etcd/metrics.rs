//! Counters of what goes wrong with etcd.

use super::EtcdErrorKind;
use crate::sync::Counter;

/// Counts failures. Shared by the handles that belong together.
#[derive(Debug, Default)]
pub(crate) struct EtcdMetrics {
    errors: [Counter; EtcdErrorKind::ALL.len()],
    /// Requests that another endpoint answered than the one that was asked first.
    pub(crate) failovers: Counter,
}

impl EtcdMetrics {
    /// Counts a request that failed.
    pub(super) fn failed(&self, kind: EtcdErrorKind) {
        self.errors[kind as usize].increment();
    }

    /// Returns how many requests failed, by kind.
    pub(crate) fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let kinds = EtcdErrorKind::ALL.iter().zip(&self.errors);
        kinds.map(|(kind, count)| (kind.name(), count.get()))
    }
}
