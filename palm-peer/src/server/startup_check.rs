//! What is checked before a server starts: whether it has the file descriptors that it needs.

use crate::{
    error::{Error, ErrorKind},
    io::fd_limit,
};

/// How many file descriptors must be free for a server to start: for etcd, the threads, the mesh,
/// and some clients.
const MIN_DESCRIPTORS: u64 = 48;

/// Raises the limit of file descriptors as far as the process may, and refuses to start when even
/// then too few are free.
pub(crate) fn prepare() -> Result<(), Error> {
    fd_limit::raise_limit();
    let (limit, in_use) = (fd_limit::limit(), fd_limit::in_use().unwrap_or_default());
    if limit.saturating_sub(in_use) >= MIN_DESCRIPTORS {
        return Ok(());
    }
    let message = format!(
        "the process may have {limit} file descriptors, and {in_use} are in use: a server needs {MIN_DESCRIPTORS} more; raise \
         the limit (LimitNOFILE= in a systemd unit, ulimit -n in a shell)"
    );
    Err(Error::new(ErrorKind::Io, message))
}
