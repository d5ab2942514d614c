//! The inner socket: how an accepted connection continues to `ZeroMQ`.
//!
//! The ingress listens, and `ZeroMQ` connects, with one socket for each connection: `ZeroMQ` cannot
//! accept without a busy loop when no descriptor is left, but a failed connect is an error. It
//! connects through a descriptor and not through a path, because the directories of sockets get
//! removed under running programs.

use crate::io::{
    executor::{self, UnixListener, UnixStream},
    zmq::{Attacher, Connection},
};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, future::try_join};
use palm_proto::zmtp::handshake::{self, GREETING_LENGTH};
use rustix::fs::{Mode, OFlags};
use std::{
    error, fmt, fs, io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            fs::DirBuilderExt as _,
            net::{UnixListener as StdListener, UnixStream as StdStream},
        },
    },
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// The prefix of the names of the directories of these sockets.
const PREFIX: &str = "palm-ingress-";
/// The name of the socket in its directory.
const SOCKET: &str = "s";
/// The longest path of a socket: the system limits it to 108 bytes, including a zero at the end.
const MAX_PATH: usize = 107;

/// The buffer size of the inner socket, in bytes. With the system's 208 KiB, the ingress and
/// `ZeroMQ` take turns five times per megabyte.
const BUFFER: usize = 512 * 1024;

/// Why there is no inner socket: the directories that were tried, and the error of each.
#[derive(Debug)]
pub(crate) struct NoDirectory(Vec<(PathBuf, io::Error)>);

impl fmt::Display for NoDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no directory in which a Unix socket can be made; tried")?;
        for (pos, (directory, error)) in self.0.iter().enumerate() {
            write!(
                f,
                "{} {} ({error})",
                if pos == 0 { "" } else { "," },
                directory.display()
            )?;
        }
        f.write_str(
            ": set TMPDIR to a directory that can be written, on a file system that allows sockets",
        )
    }
}

impl error::Error for NoDirectory {}

/// A directory that only this user can enter. Removed on drop.
#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // If it cannot be removed, it only contains an unused socket.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The location by which `ZeroMQ` connects to the socket.
#[derive(Debug)]
enum SocketLocation {
    /// A descriptor of the socket's file, which has been removed.
    Descriptor(OwnedFd),
    /// Its path, if the system cannot connect through a descriptor.
    Directory(Directory),
}

/// The inner socket.
#[derive(Debug)]
pub(super) struct Inner {
    listener: UnixListener,
    attacher: Attacher,
    location: SocketLocation,
    roots: Vec<PathBuf>,
}

impl Inner {
    /// Creates the socket in the first directory where that is possible. Fails when it is
    /// possible in none.
    pub(super) fn open(attacher: Attacher) -> Result<Self, NoDirectory> {
        Self::open_in(attacher, roots())
    }

    fn open_in(attacher: Attacher, roots: Vec<PathBuf>) -> Result<Self, NoDirectory> {
        let mut failed = Vec::new();
        for root in &roots {
            match listen_in(root) {
                Ok((listener, location)) => {
                    return Ok(Self {
                        listener: listener.into(),
                        attacher,
                        location,
                        roots,
                    });
                }
                Err(error) => failed.push((root.clone(), error)),
            }
        }
        Err(NoDirectory(failed))
    }

    /// Creates the socket again, when it does not work any more, for instance because its directory
    /// was removed. Fails when that is possible nowhere; then the old one stays.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let again =
            Self::open_in(self.attacher.clone(), self.roots.clone()).map_err(io::Error::other)?;
        *self = again;
        Ok(())
    }

    /// Makes `ZeroMQ` connect for `connection`, an identity chosen by the ingress, and returns our
    /// side. Cancel-safe; for one task at a time. Fails when either side has no descriptor left, or
    /// the receiver is gone.
    pub(super) async fn connect(&self, connection: &Connection) -> io::Result<UnixStream> {
        let endpoint = format!("ipc://{}", self.location.path());
        let (stream, ()) = try_join(
            self.accept(connection),
            self.attacher.attach(&endpoint, connection),
        )
        .await?;
        Ok(stream)
    }

    /// Accepts until the connection is for `connection`. Others are left over from
    /// abandoned attempts.
    async fn accept(&self, connection: &Connection) -> io::Result<UnixStream> {
        loop {
            let mut stream = executor::accept_unix(&self.listener, BUFFER).await?;
            if is_for(&mut stream, connection).await.unwrap_or(false) {
                return Ok(stream);
            }
        }
    }
}

/// Performs the handshake. Returns whether the connection is for `connection`.
async fn is_for(stream: &mut UnixStream, connection: &Connection) -> io::Result<bool> {
    stream.write_all(&handshake::greeting()).await?;
    let mut greeting = [0; GREETING_LENGTH + 2];
    stream.read_exact(&mut greeting).await?;
    let mut ready = vec![0; usize::from(greeting[GREETING_LENGTH + 1])];
    stream.read_exact(&mut ready).await?;
    if handshake::identity(&ready) != Some(&connection[..]) {
        return Ok(false);
    }
    stream
        .write_all(&handshake::ready("DEALER", Some(connection), false))
        .await?;
    Ok(true)
}

impl SocketLocation {
    fn path(&self) -> String {
        match self {
            Self::Descriptor(descriptor) => format!("/proc/self/fd/{}", descriptor.as_raw_fd()),
            // It has been checked to be UTF-8.
            Self::Directory(directory) => directory.0.join(SOCKET).display().to_string(),
        }
    }
}

/// Returns the directories for sockets. The last is writable even in containers with a read-only
/// root file system.
fn roots() -> Vec<PathBuf> {
    let named = [
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
        Some(std::env::temp_dir()),
    ];
    let mut roots: Vec<PathBuf> = Vec::new();
    for root in named
        .into_iter()
        .flatten()
        .chain(["/tmp".into(), "/dev/shm".into()])
    {
        if !root.as_os_str().is_empty() && !roots.contains(&root) {
            roots.push(root);
        }
    }
    roots
}

fn listen_in(root: &Path) -> io::Result<(StdListener, SocketLocation)> {
    let path = root.join(format!("{PREFIX}{}", Uuid::new_v4().simple()));
    let socket = path.join(SOCKET);
    if socket.as_os_str().len() > MAX_PATH {
        return Err(io::Error::new(
            io::ErrorKind::InvalidFilename,
            "too long for the path of a socket",
        ));
    }
    fs::DirBuilder::new().mode(0o700).create(&path)?;
    let directory = Directory(path);
    let listener = StdListener::bind(&socket)?;
    let descriptor = by_descriptor(&socket, &listener);
    listener.set_nonblocking(true)?;
    match descriptor {
        Some(descriptor) => Ok((listener, SocketLocation::Descriptor(descriptor))),
        None if socket.to_str().is_some() => Ok((listener, SocketLocation::Directory(directory))),
        None => Err(io::Error::new(io::ErrorKind::InvalidFilename, "not UTF-8")),
    }
}

/// Returns a descriptor of the socket's file, if the system can connect through it.
fn by_descriptor(socket: &Path, listener: &StdListener) -> Option<OwnedFd> {
    let descriptor = open_path(socket)?;
    let location = SocketLocation::Descriptor(descriptor);
    // There is no other connection, so neither call blocks.
    drop(StdStream::connect(location.path()).ok()?);
    drop(listener.accept().ok()?);
    let SocketLocation::Descriptor(descriptor) = location else {
        return None;
    };
    Some(descriptor)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn open_path(socket: &Path) -> Option<OwnedFd> {
    rustix::fs::open(socket, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn open_path(_socket: &Path) -> Option<OwnedFd> {
    None
}

#[cfg(test)]
#[path = "inner_tests.rs"]
mod tests;
