//! Newtypes for etcd's numbers, so that a lease is never mistaken for a revision.

use std::{fmt, num::NonZeroI64, str::FromStr};

/// A lease that etcd granted. Never zero: to etcd, lease 0 means "no lease", and a key put under it
/// would outlive its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(NonZeroI64);

impl LeaseId {
    /// Returns the lease with this number, unless it is 0.
    #[must_use]
    pub fn new(id: i64) -> Option<Self> {
        NonZeroI64::new(id).map(Self)
    }

    /// Returns the number for etcd's API.
    #[must_use]
    pub fn value(self) -> i64 {
        self.0.get()
    }
}

/// Lower-case hexadecimal, as `etcdctl lease list` prints it.
impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// The inverse of `Display`.
impl FromStr for LeaseId {
    type Err = InvalidLeaseId;

    fn from_str(hex: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(hex, 16)
            .ok()
            .and_then(|id| Self::new(id.cast_signed()))
            .ok_or(InvalidLeaseId)
    }
}

/// The text is not a hexadecimal lease id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidLeaseId;

impl fmt::Display for InvalidLeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the hexadecimal number of a lease")
    }
}

impl std::error::Error for InvalidLeaseId {}

/// A point in etcd's history. Every write to etcd increments it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub i64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
