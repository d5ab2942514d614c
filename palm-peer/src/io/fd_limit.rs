//! How many file descriptors the process may have, how many it has, and which errors say that something has run out.

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use std::{
    fs, io,
    os::{fd::AsRawFd as _, unix::net::UnixDatagram},
};

/// How many descriptors the process may have.
pub(crate) fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the limit to what the process may raise it to. A system that allows less than it says leaves it as it is.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// How many the process has; `None` where the system does not list them.
pub(crate) fn in_use() -> Option<u64> {
    let listed = fs::read_dir("/proc/self/fd").or_else(|_| fs::read_dir("/dev/fd")).ok()?;
    // The listing has one for itself.
    Some((listed.count() as u64).saturating_sub(1))
}

/// The number that the next descriptor gets, which is the lowest that is free; `None` when there is none left.
pub(crate) fn lowest_free() -> Option<u64> {
    // A socket costs a third of what opening a file does.
    u64::try_from(UnixDatagram::unbound().ok()?.as_raw_fd()).ok()
}

/// Whether this says that the process, or the system, has no descriptor left.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Whether a connection failed for want of something on this side: descriptors, memory, ports, a network. Such an error says
/// nothing about the other side.
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
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL, Errno::NETDOWN] {
            assert!(is(errno), "{errno}");
        }
        for errno in [Errno::CONNREFUSED, Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::CONNRESET] {
            assert!(!is(errno), "{errno}");
        }
        assert!(!is_local(&io::Error::other("nothing of the system's")));
    }
}
