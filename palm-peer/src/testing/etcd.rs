//! A private etcd for tests.

use super::{etcd_flags, free_port};
use crate::error::{Error, ErrorKind};
use palm_proto::config::Config;
use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a start may take.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a start is retried because a port was taken between its choice and its use.
const ATTEMPTS: usize = 5;

/// The interval at which its health is checked while it starts.
const POLL: Duration = Duration::from_millis(10);

/// How long an answer about its health may take.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs etcd until it ends, or until the standard input is closed: at the latest with the process of
/// the test, however that ends. Then removes the directory.
const SUPERVISE: &str = r#"
trap '' HUP INT TERM
folder=$1
shift
exec 3<&0
etcd "$@" 3<&- </dev/null >/dev/null 2>"$folder/log" &
etcd=$!
(
    while read -r _ <&3; do :; done
    [ -e "$folder/status" ] || kill -9 "$etcd"
) 2>/dev/null &
wait "$etcd" 2>/dev/null
echo "$?" >"$folder/status"
wait
rm -rf "$folder"
"#;

/// A throwaway etcd for tests: one process of the program `etcd` that is found in `PATH`, on free
/// ports of 127.0.0.1, with its data in a temporary directory. It ends when this is dropped, and
/// also when the test's process is killed.
///
/// Several tests may share one, each with a [prefix](Config::prefix) of its own.
///
/// ```no_run
/// # fn example() -> Result<(), palm_peer::Error> {
/// use palm_peer::testing::Etcd;
///
/// let etcd = Etcd::start()?;
/// let config = etcd.config().prefix("/one-test".into());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Etcd {
    endpoint: String,
    folder: PathBuf,
    /// The shell that supervises it.
    shell: Child,
}

impl Etcd {
    /// Starts an etcd, and waits until it is healthy, for some 100 ms; blocks the thread meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when etcd is not installed, or is not healthy within 30 s; the message has
    /// the end of its log.
    pub fn start() -> Result<Self, Error> {
        require_etcd()?;
        let mut failed = String::new();
        for _ in 0..ATTEMPTS {
            let etcd = Self::launch()
                .map_err(|error| Error::new(ErrorKind::Io, "cannot start etcd").caused(error))?;
            match etcd.await_health() {
                Ok(()) => return Ok(etcd),
                Err(reason) => failed = reason,
            }
            if !etcd_flags::is_port_taken(&failed) {
                break;
            }
        }
        Err(Error::new(ErrorKind::Io, failed))
    }

    /// Returns its URL, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the configuration of servers and clients in this etcd; all else is as in
    /// `Config::default()`.
    #[must_use]
    pub fn config(&self) -> Config {
        Config::default().etcd(vec![self.endpoint.clone()])
    }

    fn launch() -> io::Result<Self> {
        let name = format!("palm-etcd-{}", Uuid::new_v4());
        let folder = env::temp_dir().join(name);
        let endpoint = format!("http://127.0.0.1:{}", free_port::find()?);
        let peer = format!("http://127.0.0.1:{}", free_port::find()?);
        let member = etcd_flags::Member {
            name: "lone",
            data: &folder.join("data"),
            client_url: &endpoint,
            peer_url: &peer,
            members: &format!("lone={peer}"),
            ticks: ["10", "100"],
        };
        fs::create_dir(&folder)?;
        let mut shell = Command::new("sh");
        shell.args(["-c", SUPERVISE, "sh"]).arg(&folder);
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD") {
                shell.env_remove(name);
            }
        }
        let shell = shell
            .args(member.flags())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .inspect_err(|_| drop(fs::remove_dir_all(&folder)))?;
        Ok(Self {
            endpoint,
            folder,
            shell,
        })
    }

    /// Fails with the reason and the end of the log.
    fn await_health(&self) -> Result<(), String> {
        let deadline = Instant::now() + START_TIMEOUT;
        let ended = self.folder.join("status");
        while !self.is_healthy() {
            let reason = if ended.exists() {
                "etcd ended while it started".to_owned()
            } else if Instant::now() >= deadline {
                format!("etcd is not healthy after {START_TIMEOUT:?}")
            } else {
                thread::sleep(POLL);
                continue;
            };
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(20)..];
            return Err(format!("{reason}; its log ends with\n{}", tail.join("\n")));
        }
        Ok(())
    }

    fn is_healthy(&self) -> bool {
        let port = self.endpoint.rsplit(':').next().map(str::parse);
        let Some(Ok(port)) = port else {
            return false;
        };
        health(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .is_ok_and(|answer| answer.contains(r#""health":"true""#))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // The shell ends etcd when its input is closed.
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Asks an etcd for its health.
fn health(address: SocketAddr) -> io::Result<String> {
    let mut tcp = TcpStream::connect_timeout(&address, HEALTH_TIMEOUT)?;
    tcp.set_read_timeout(Some(HEALTH_TIMEOUT))?;
    tcp.write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Fails unless there is a program `etcd`.
fn require_etcd() -> Result<(), Error> {
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|folder| is_program(&folder.join("etcd"))) {
        return Ok(());
    }
    let text = "there is no program etcd in PATH: install etcd 3.4 or newer (Debian and Ubuntu: apt-get install etcd-server)";
    Err(Error::new(ErrorKind::Io, text))
}

fn is_program(path: &Path) -> bool {
    path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etcd_ends_on_drop_and_leaves_nothing() {
        let etcd = Etcd::start().expect("etcd starts");
        assert!(etcd.is_healthy());
        let (folder, other) = (etcd.folder.clone(), Etcd::start().expect("another one"));
        assert_ne!(etcd.endpoint(), other.endpoint());
        drop(etcd);
        assert!(!folder.exists(), "its directory is removed");
        assert!(other.is_healthy(), "the other one goes on");
    }

    #[test]
    fn the_end_of_the_log_says_why_it_does_not_start() {
        let etcd = Etcd::start().expect("etcd starts");
        let folder = etcd.folder.join("second");
        fs::create_dir(&folder).expect("a directory");
        let port = free_port::find().expect("a free port");
        let peer = format!("http://127.0.0.1:{port}");
        let member = etcd_flags::Member {
            name: "lone",
            data: &folder.join("data"),
            client_url: etcd.endpoint(),
            peer_url: &peer,
            members: &format!("lone={peer}"),
            ticks: ["10", "100"],
        };
        let mut shell = Command::new("sh");
        shell.args(["-c", SUPERVISE, "sh"]).arg(&folder);
        let shell = shell.args(member.flags()).stdin(Stdio::piped()).spawn();
        let second = Etcd {
            // Nobody answers there.
            endpoint: "http://127.0.0.1:1".to_owned(),
            folder,
            shell: shell.expect("a shell"),
        };
        let reason = second.await_health().expect_err("its port is taken");
        assert!(reason.starts_with("etcd ended"), "{reason}");
        assert!(etcd_flags::is_port_taken(&reason), "{reason}");
    }
}
