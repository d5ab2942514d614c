//! The limit of file descriptors, their current number, and the errors that mean a local
//! resource is exhausted.

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use std::{
    fs, io,
    os::{fd::AsRawFd as _, unix::net::UnixDatagram},
};

/// Returns how many descriptors the process may have.
pub(crate) fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the soft limit to the hard limit. If the system refuses, the limit stays as it is.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: maximum,
                maximum,
            },
        );
    }
}

/// Returns how many descriptors the process has; `None` if the system does not list them.
pub(crate) fn in_use() -> Option<u64> {
    let listed = fs::read_dir("/proc/self/fd")
        .or_else(|_| fs::read_dir("/dev/fd"))
        .ok()?;
    // The listing itself uses one.
    Some((listed.count() as u64).saturating_sub(1))
}

/// Returns the number of the next descriptor, which is the lowest free one; `None`
/// when none is left.
pub(crate) fn lowest_free() -> Option<u64> {
    // Creating a socket costs a third of opening a file.
    u64::try_from(UnixDatagram::unbound().ok()?.as_raw_fd()).ok()
}

/// Returns whether this error means that the process or the system has no descriptor left.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

/// Returns whether a connection failed because a local resource is missing: descriptors, memory,
/// ports, a network. Such an error says nothing about the peer.
pub(crate) fn is_local(error: &io::Error) -> bool {
    is_exhausted(error)
        || matches!(
            Errno::from_io_error(error),
            Some(Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL | Errno::NETDOWN)
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_local_resources_are_local_errors() {
        let is = |errno: Errno| is_local(&errno.into());
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
            Errno::NETDOWN,
        ] {
            assert!(is(errno), "{errno}");
        }
        for errno in [
            Errno::CONNREFUSED,
            Errno::TIMEDOUT,
            Errno::HOSTUNREACH,
            Errno::CONNRESET,
        ] {
            assert!(!is(errno), "{errno}");
        }
        assert!(!is_local(&io::Error::other("nothing of the system's")));
    }
}
