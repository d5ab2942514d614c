//! A private etcd for tests.

mod builder;
#[path = "../../palm-peer/src/testing/etcd_flags.rs"]
mod etcd_flags;

use std::{
    env,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

pub use builder::EtcdBuilder;
pub(crate) use builder::START_ATTEMPTS;

use crate::{Authority, Metrics, child::Held, metrics, timing::POLL};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// One etcd process on free loopback ports, with its data in a temporary directory.
///
/// All methods take `&self`, so that one thread may freeze what another uses. When the test panics,
/// the end of etcd's log is printed.
#[derive(Debug)]
pub struct Etcd {
    folder: TempDir,
    flags: Vec<String>,
    control_flags: Vec<String>,
    scheme: &'static str,
    client: SocketAddr,
    metrics: SocketAddr,
    launcher: Vec<String>,
    process: Mutex<Option<Held>>,
}

/// Why a process that was launched did not become healthy.
pub(crate) enum NotReady {
    /// One of its ports is in use.
    PortTaken,
    /// Another error.
    Failed(String),
}

impl Etcd {
    /// Starts an etcd with default flags; see [`EtcdBuilder::start`].
    #[must_use]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Starts an etcd with TLS and a certificate for 127.0.0.1 by this authority, which requires
    /// certificates of the same authority from its clients.
    #[must_use]
    pub fn certified_by(authority: &Authority) -> Self {
        let certificate = authority.issue("etcd", &["127.0.0.1"]);
        Self::builder().certified(&certificate).start()
    }

    /// Returns a builder for an etcd with other flags.
    pub fn builder() -> EtcdBuilder {
        EtcdBuilder::default()
    }

    /// Returns its client URL: `http://127.0.0.1:PORT`. Stays the same across restarts.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.client)
    }

    /// Returns its client address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.client
    }

    /// Returns the directory of its data and its log.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns its process id.
    ///
    /// # Panics
    ///
    /// When it is stopped.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process().as_ref().expect("etcd is stopped").pid()
    }

    /// Stops it and waits until it has ended; its data are kept.
    ///
    /// # Panics
    ///
    /// When it has not ended within 15 s, for instance because it is frozen.
    pub fn stop(&self) {
        if let Some(mut process) = self.process().take() {
            process.signal(Signal::TERM);
            assert!(
                process.wait(STOP_TIMEOUT).is_some(),
                "etcd did not stop within {STOP_TIMEOUT:?}"
            );
        }
    }

    /// Kills it, as `kill -9` does; its data are kept.
    pub fn kill(&self) {
        drop(self.process().take());
    }

    /// Stops it if it runs, starts it on the same ports with the same data, and waits
    /// until it is healthy.
    ///
    /// # Panics
    ///
    /// When it is not healthy within 30 s. A member of a cluster is healthy only while its cluster
    /// has a leader; otherwise use [`launch`](Self::launch).
    pub fn restart(&self) {
        self.stop();
        self.launch();
        self.await_health();
    }

    /// Saves a backup, and returns the file.
    ///
    /// # Panics
    ///
    /// When etcd does not do it.
    #[must_use]
    pub fn back_up(&self) -> PathBuf {
        let file = self.folder.path().join("backup.db");
        let _ = fs::remove_file(&file);
        self.etcdctl(&["snapshot", "save", &file.display().to_string()]);
        file
    }

    /// Kills it, and starts it on the same ports with the data of the backup. With another token it
    /// is another cluster.
    ///
    /// # Panics
    ///
    /// When the backup cannot be restored, or etcd is not healthy within 30 s.
    pub fn restore(&self, backup: &Path, token: Option<&str>) {
        self.kill();
        let data = self.folder.path().join("data");
        fs::remove_dir_all(&data).expect("its data can be removed");
        let kept = [
            "--name=",
            "--initial-cluster=",
            "--initial-advertise-peer-urls=",
            "--data-dir=",
        ];
        let flags = self
            .flags
            .iter()
            .filter(|flag| kept.iter().any(|kept| flag.starts_with(kept)));
        let restored = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "restore"])
            .arg(backup)
            .args(flags)
            .args(token.map(|token| format!("--initial-cluster-token={token}")))
            .output()
            .expect("etcdctl starts: `scripts/setup` installs it");
        assert!(
            restored.status.success(),
            "{}",
            String::from_utf8_lossy(&restored.stderr)
        );
        self.launch();
        self.await_health();
    }

    /// Kills it, and starts it on the same ports without any data.
    ///
    /// # Panics
    ///
    /// When it is not healthy within 30 s.
    pub fn lose_data(&self) {
        self.kill();
        fs::remove_dir_all(self.folder.path().join("data")).expect("its data can be removed");
        self.launch();
        self.await_health();
    }

    /// Fills it until it raises the alarm `NOSPACE`; it must have been started with a small
    /// `--quota-backend-bytes`.
    ///
    /// # Panics
    ///
    /// When it accepts hundreds of megabytes.
    pub fn fill(&self) {
        let value = "x".repeat(100_000);
        for _ in 0..2000 {
            if !self
                .try_etcdctl(&["put", "/filling", &value])
                .status
                .success()
            {
                assert!(self.etcdctl(&["alarm", "list"]).contains("NOSPACE"));
                return;
            }
        }
        panic!("etcd has no quota");
    }

    /// Frees space in an etcd that was filled, and disarms its alarm.
    ///
    /// # Panics
    ///
    /// When etcd does not do it.
    pub fn make_space(&self) {
        let status = self.etcdctl(&["get", "/filling", "--keys-only", "--write-out=fields"]);
        let revision = status
            .lines()
            .find_map(|line| line.strip_prefix("\"Revision\" : "))
            .expect("a revision");
        self.etcdctl(&["compact", "--physical", revision]);
        self.etcdctl(&["defrag"]);
        self.etcdctl(&["alarm", "disarm"]);
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill`](Self::kill), without
    /// waiting for anything.
    ///
    /// # Panics
    ///
    /// When etcd is not installed.
    pub fn launch(&self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("etcd's log file");
        let line: Vec<&str> = self.launcher.iter().map(String::as_str).collect();
        let line = [&line[..], &["etcd"]].concat();
        let mut command = Held::command(Path::new(line[0]));
        command.args(&line[1..]);
        for (name, _) in
            env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD"))
        {
            command.env_remove(name);
        }
        command
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let process = Held::start(command).expect("etcd starts: `scripts/setup` installs it");
        *self.process() = Some(process);
    }

    /// Waits until it reports that it is healthy: it runs, and knows a leader.
    ///
    /// # Panics
    ///
    /// When it is not healthy within 30 s; the message has the end of its log.
    pub fn await_health(&self) {
        match self.ready() {
            Ok(()) => {}
            Err(NotReady::PortTaken) => panic!(
                "somebody took etcd's port while it was stopped:\n{}",
                self.log_tail()
            ),
            Err(NotReady::Failed(why)) => panic!("{why}"),
        }
    }

    /// Returns whether it reports that it is healthy. Takes up to a second when it is frozen.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        metrics::fetch(self.metrics, "/health")
            .is_ok_and(|body| body.contains(r#""health":"true""#))
    }

    /// Freezes all its threads: connections stay open and are not answered. All are stopped
    /// when it returns.
    ///
    /// # Panics
    ///
    /// When it is stopped.
    pub fn freeze(&self) {
        self.process().as_mut().expect("etcd is stopped").freeze();
    }

    /// Thaws it after [`freeze`](Self::freeze).
    ///
    /// # Panics
    ///
    /// When it is stopped.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Returns the flags of etcdctl to reach it, besides its endpoint.
    #[must_use]
    pub fn etcdctl_flags(&self) -> &[String] {
        &self.control_flags
    }

    /// Runs `etcdctl` against it and returns its output.
    ///
    /// # Panics
    ///
    /// When it fails, with its output.
    pub fn etcdctl(&self, args: &[&str]) -> String {
        let output = self.try_etcdctl(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "etcdctl {args:?}: {}\n{said}",
            output.status
        );
        String::from_utf8(output.stdout).expect("etcdctl prints text")
    }

    /// Runs `etcdctl` against it, and returns its output and status. Against a frozen etcd it
    /// gives up after 5 s.
    ///
    /// # Panics
    ///
    /// When `etcdctl` is not installed.
    pub fn try_etcdctl(&self, args: &[&str]) -> Output {
        Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", self.endpoint())
            .args(&self.control_flags)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("etcdctl starts: `scripts/setup` installs it")
    }

    /// Returns the metric of exactly this name, the sum of all its series:
    /// `metric("etcd_mvcc_put_total")`.
    ///
    /// # Panics
    ///
    /// When it does not answer, or knows no such metric.
    #[must_use]
    pub fn metric(&self, name: &str) -> f64 {
        self.metric_where(name, "")
    }

    /// As [`metric`](Self::metric), only of those series whose labels contain `label`:
    /// `metric_where("grpc_server_started_total", "grpc_method=\"Txn\"")`.
    ///
    /// # Panics
    ///
    /// As [`metric`](Self::metric); series that exist under other labels only come to 0.
    #[must_use]
    pub fn metric_where(&self, name: &str, label: &str) -> f64 {
        let text = metrics::fetch(self.metrics, "/metrics").expect("etcd tells its metrics");
        metrics::sum(&text, name, label).unwrap_or_else(|| panic!("etcd has no metric {name}"))
    }

    /// Returns all its metrics at one moment.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics(metrics::fetch(self.metrics, "/metrics").expect("etcd tells its metrics"))
    }

    /// Returns whether it leads its cluster; `None` when it does not answer.
    pub(crate) fn leads(&self) -> Option<bool> {
        let text = metrics::fetch(self.metrics, "/metrics").ok()?;
        Some(metrics::sum(&text, "etcd_server_is_leader", "")? > 0.0)
    }

    pub(crate) fn ready(&self) -> Result<(), NotReady> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.is_healthy() {
            let ended = self
                .process()
                .as_mut()
                .map(Held::ended)
                .expect("etcd is launched");
            let why = match ended {
                None if Instant::now() < deadline => {
                    thread::sleep(POLL);
                    continue;
                }
                None => format!("not healthy after {START_TIMEOUT:?}"),
                Some(end) => format!("ended, {end}"),
            };
            let log = self.log_tail();
            let taken = ended.is_some() && etcd_flags::is_port_taken(&log);
            return Err(if taken {
                NotReady::PortTaken
            } else {
                NotReady::Failed(format!("etcd {why}:\n{log}"))
            });
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        self.process()
            .as_mut()
            .expect("etcd is stopped")
            .signal(signal);
    }

    fn process(&self) -> MutexGuard<'_, Option<Held>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("etcd.log")
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!(
                "--- etcd at {} said last:\n{}",
                self.client,
                self.log_tail()
            );
        }
    }
}
