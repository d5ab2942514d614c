//! Transactions: several reads and writes that happen atomically, if comparisons hold.

use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp,
    TxnOpResponse, TxnResponse,
};

use super::convert::{items, revision_of};
use palm_proto::{
    reflector::KeyValue,
    types::ids::{LeaseId, Revision},
};

/// Comparisons, the operations if all of them hold, and the operations otherwise. Without
/// comparisons they hold.
///
/// etcd accepts at most 128 operations per branch, and no key may be written twice in one branch.
#[derive(Debug, Clone, Default)]
#[must_use = "a transaction does nothing until it is sent"]
pub(crate) struct Transaction {
    compares: Vec<Compare>,
    then: Vec<Operation>,
    or_else: Vec<Operation>,
}

impl Transaction {
    /// Creates an empty transaction.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Holds if the key was created at this revision and has not been deleted since. A leader's
    /// writes are fenced by this comparison with its own election key.
    pub(crate) fn created(self, key: &str, revision: Revision) -> Self {
        self.compare(Compare::create_revision(key, CompareOp::Equal, revision.0))
    }

    /// Holds if the key has not been written since this revision.
    pub(crate) fn modified(self, key: &str, revision: Revision) -> Self {
        self.compare(Compare::mod_revision(key, CompareOp::Equal, revision.0))
    }

    /// Holds if there is no such key.
    pub(crate) fn absent(self, key: &str) -> Self {
        self.compare(Compare::create_revision(key, CompareOp::Equal, 0))
    }

    /// Holds if there is such a key.
    pub(crate) fn present(self, key: &str) -> Self {
        self.compare(Compare::create_revision(key, CompareOp::Greater, 0))
    }

    /// Holds if the key was created before this revision and has not been deleted since.
    pub(crate) fn created_before(self, key: &str, revision: Revision) -> Self {
        self.present(key)
            .compare(Compare::create_revision(key, CompareOp::Less, revision.0))
    }

    fn compare(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds an operation for the case that all comparisons hold.
    pub(crate) fn then(mut self, operation: Operation) -> Self {
        self.then.push(operation);
        self
    }

    /// Adds an operation for the case that a comparison does not hold.
    pub(crate) fn or_else(mut self, operation: Operation) -> Self {
        self.or_else.push(operation);
        self
    }

    pub(super) fn to_etcd(&self) -> Txn {
        let branch = |operations: &[Operation]| -> Vec<TxnOp> {
            operations
                .iter()
                .map(|operation| operation.0.clone())
                .collect()
        };
        Txn::new()
            .when(self.compares.clone())
            .and_then(branch(&self.then))
            .or_else(branch(&self.or_else))
    }
}

/// One read or write of a transaction.
#[derive(Debug, Clone)]
pub(crate) struct Operation(TxnOp);

impl Operation {
    /// Puts the value under the key.
    pub(crate) fn put(key: &str, value: impl Into<Vec<u8>>, lease: Lease) -> Self {
        let options = match lease {
            Lease::Attach(id) => PutOptions::new().with_lease(id.value()),
            Lease::Keep => PutOptions::new().with_ignore_lease(),
            Lease::None => PutOptions::new(),
        };
        Self(TxnOp::put(key, value, Some(options)))
    }

    /// Deletes the key, if it is there.
    pub(crate) fn delete(key: &str) -> Self {
        Self(TxnOp::delete(key, None))
    }

    /// Deletes all keys with this prefix. An empty prefix means every key in etcd.
    pub(crate) fn delete_prefix(prefix: &str) -> Self {
        let options = if prefix.is_empty() {
            DeleteOptions::new().with_all_keys()
        } else {
            DeleteOptions::new().with_prefix()
        };
        Self(TxnOp::delete(prefix, Some(options)))
    }

    /// Reads the key; one of [`TxnOutcome::reads`].
    pub(crate) fn get(key: &str) -> Self {
        Self(TxnOp::get(key, None))
    }

    /// Reads all keys with this prefix, sorted; one of [`TxnOutcome::reads`].
    pub(crate) fn get_prefix(prefix: &str) -> Self {
        Self(TxnOp::get(prefix, Some(prefix_options(prefix))))
    }

    /// Reads the oldest keys with this prefix, by creation, at most `max`; one of
    /// [`TxnOutcome::reads`].
    pub(crate) fn get_oldest(prefix: &str, max: usize) -> Self {
        let options = prefix_options(prefix)
            .with_sort(SortTarget::Create, SortOrder::Ascend)
            .with_limit(i64::try_from(max).unwrap_or(i64::MAX));
        Self(TxnOp::get(prefix, Some(options)))
    }
}

/// The lease that a key is put on. It cannot be lease 0 by mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lease {
    /// The key is deleted with this lease.
    Attach(LeaseId),
    /// The key keeps its lease. [`Invalid`](super::EtcdErrorKind::Invalid) when
    /// there is no such key.
    Keep,
    /// The key has no lease, and stays until it is deleted. Only for keys such as `/reset`.
    None,
}

/// The outcome of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TxnOutcome {
    /// Whether all comparisons held.
    ///
    /// `false` does not prove that nothing was done: when a response is lost, the transaction is
    /// repeated, and may find that its own first attempt changed what it compares. Where that
    /// matters, read the keys in the other branch and compare the values.
    pub succeeded: bool,
    /// The revision of the store after the transaction: of its writes, if it wrote.
    pub revision: Revision,
    /// The results of the branch's reads, in their order. An absent key gives an empty result.
    pub reads: Vec<Vec<KeyValue>>,
}

impl TxnOutcome {
    pub(super) fn from_etcd(response: &TxnResponse) -> Self {
        let reads = response
            .op_responses()
            .into_iter()
            .filter_map(|answer| match answer {
                TxnOpResponse::Get(found) => Some(items(found.kvs())),
                _ => None,
            })
            .collect();
        Self {
            succeeded: response.succeeded(),
            revision: revision_of(response.header()),
            reads,
        }
    }
}

/// Returns the options for reading all keys with this prefix.
pub(super) fn prefix_options(prefix: &str) -> GetOptions {
    if prefix.is_empty() {
        GetOptions::new().with_all_keys()
    } else {
        GetOptions::new().with_prefix()
    }
}
