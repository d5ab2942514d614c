//! How many file descriptors the process may have, and how many it has.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;

/// How many descriptors the process may have.
#[must_use]
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the limit to what the process may raise it to. A system that allows less than it says leaves it as it is.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// How many the process has; `None` where the system does not list them.
#[must_use]
pub fn in_use() -> Option<u64> {
    let listed = fs::read_dir("/proc/self/fd").or_else(|_| fs::read_dir("/dev/fd")).ok()?;
    // The listing has one for itself.
    Some((listed.count() as u64).saturating_sub(1))
}
