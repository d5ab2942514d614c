//! The private folder in which the inner socket lies.

use crate::ports::{runtime, timer};
use std::{
    fs, io,
    os::unix::{
        fs::DirBuilderExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};
use uuid::Uuid;

/// What the names of all such folders start with.
const PREFIX: &str = "palm-door-";
/// The name of the socket in it.
const SOCKET: &str = "s";
/// The longest path of a socket: the system has 108 bytes for it, with a zero at the end.
const LONGEST_PATH: usize = 107;
/// How old a folder is at least before it is looked at whether its owner lives: a young one may not listen yet.
const GRACE: Duration = Duration::from_secs(60);

/// A folder that only this user can enter. Gone with its owner.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes a folder, and listens in it.
    ///
    /// # Errors
    /// When no folder can be made where sockets can lie.
    pub fn create() -> io::Result<(Self, UnixListener)> {
        let name = format!("{PREFIX}{}", Uuid::new_v4().simple());
        let roots = [std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from), Some(std::env::temp_dir())];
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no folder for sockets");
        for root in roots.into_iter().flatten().chain([PathBuf::from("/tmp")]) {
            sweep(&root);
            match Self::create_in(root.join(&name)) {
                Ok(made) => return Ok(made),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn create_in(path: PathBuf) -> io::Result<(Self, UnixListener)> {
        let socket = path.join(SOCKET);
        if socket.as_os_str().len() > LONGEST_PATH {
            let words = format!("{} is too long for the path of a socket", socket.display());
            return Err(io::Error::new(io::ErrorKind::InvalidFilename, words));
        }
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let folder = Self { path };
        let listener = UnixListener::bind(socket)?;
        Ok((folder, listener))
    }

    /// Where the socket lies.
    pub fn socket(&self) -> PathBuf {
        self.path.join(SOCKET)
    }

    /// Removes it, once `ZeroMQ`, which complains when it cannot do so itself, has removed the socket.
    pub async fn remove(self) {
        let path = self.path.clone();
        std::mem::forget(self);
        remove(path).await;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        runtime::spawn(remove(std::mem::take(&mut self.path)));
    }
}

async fn remove(path: PathBuf) {
    for _ in 0..50 {
        if !path.join(SOCKET).exists() {
            break;
        }
        timer::sleep(Duration::from_millis(2)).await;
    }
    // What cannot be removed now is swept up by whoever starts next.
    let _ = fs::remove_dir_all(path);
}

/// Removes what processes left behind that were killed: folders of this user in whose socket nobody listens.
fn sweep(root: &Path) {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let age = entry.metadata().and_then(|found| found.modified()).ok().and_then(|when| when.elapsed().ok());
        let path = entry.path();
        let deserted = || match UnixStream::connect(path.join(SOCKET)) {
            Ok(_) => false,
            Err(error) => matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound),
        };
        if age.is_some_and(|age| age > GRACE) && deserted() {
            let _ = fs::remove_dir_all(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn only_this_user_can_enter_and_nothing_is_left() {
        let (folder, listener) = Folder::create().expect("a folder");
        let path = folder.path.clone();
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o700);
        drop(listener);
        fs::remove_file(folder.socket()).expect("the socket, as ZeroMQ removes it");
        block_on(folder.remove());
        assert!(!path.exists());
    }

    #[test]
    fn deserted_folders_are_swept_and_living_ones_stay() {
        let root = tempfile::tempdir().expect("a folder");
        let old = |name: &str| {
            let (folder, listener) = Folder::create_in(root.path().join(name)).expect("a folder");
            let path = folder.path.clone();
            std::mem::forget(folder);
            let long_ago = std::time::SystemTime::now() - 2 * GRACE;
            fs::File::open(&path).and_then(|file| file.set_modified(long_ago)).expect("a folder that can grow old");
            (path, listener)
        };
        let (dead, listener) = old("palm-door-dead");
        drop(listener);
        let (living, _listener) = old("palm-door-living");
        let (other, _) = old("other");
        sweep(root.path());
        assert!(!dead.exists());
        assert!(living.exists());
        assert!(other.exists());
    }

    #[test]
    fn a_path_that_the_system_would_cut_is_refused() {
        let long = std::env::temp_dir().join("x".repeat(120));
        let error = Folder::create_in(long.clone()).expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidFilename);
        assert!(!long.exists());
    }
}
