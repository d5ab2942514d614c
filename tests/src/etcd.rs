//! An etcd of the test's own.

mod builder;

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

use crate::{Metrics, child::Held, metrics, timing::POLL};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// One etcd process on free loopback ports, with its data in a temporary folder.
///
/// All methods take `&self`, so that one thread may freeze what another uses. When the test panics, the end of etcd's
/// log is printed.
#[derive(Debug)]
pub struct Etcd {
    folder: TempDir,
    flags: Vec<String>,
    control_flags: Vec<String>,
    scheme: &'static str,
    client: SocketAddr,
    metrics: SocketAddr,
    process: Mutex<Option<Held>>,
}

/// Why a process that was launched did not become healthy.
pub(crate) enum NotReady {
    /// Somebody else has one of its ports.
    PortTaken,
    /// Anything else, in words.
    Failed(String),
}

impl Etcd {
    /// Starts an etcd with nothing special about it; see [`EtcdBuilder::start`].
    #[must_use]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// For an etcd with flags of its own.
    pub fn builder() -> EtcdBuilder {
        EtcdBuilder::default()
    }

    /// Where clients find it, as a URL: `http://127.0.0.1:PORT`. Stays the same over restarts.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.client)
    }

    /// Where clients find it, as an address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.client
    }

    /// The folder that holds its data and its log, for as long as this lives.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The number of its process.
    ///
    /// # Panics
    ///
    /// When it is stopped.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process().as_ref().expect("etcd is stopped").pid()
    }

    /// Asks it to end and waits until it has; its data stay.
    ///
    /// # Panics
    ///
    /// When it has not ended within 15 s, as one that is frozen.
    pub fn stop(&self) {
        if let Some(mut process) = self.process().take() {
            process.signal(Signal::TERM);
            assert!(process.wait(STOP_TIMEOUT).is_some(), "etcd did not stop within {STOP_TIMEOUT:?}");
        }
    }

    /// Kills it at once, as `kill -9` does; its data stay as they are.
    pub fn kill(&self) {
        drop(self.process().take());
    }

    /// Stops it if it runs, starts it on the same ports with the same data, and waits until it is healthy.
    ///
    /// # Panics
    ///
    /// When it is not healthy within 30 s. A member of a cluster is healthy only while its cluster has a leader; else use
    /// [`launch`](Self::launch).
    pub fn restart(&self) {
        self.stop();
        self.launch();
        self.await_health();
    }

    /// Saves a backup of what it holds now, and gives the file.
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

    /// Kills it, and starts it on the same ports with what is in the backup. With a token of its own it is another cluster.
    ///
    /// # Panics
    ///
    /// When the backup cannot be restored, or etcd is not healthy within 30 s.
    pub fn restore(&self, backup: &Path, token: Option<&str>) {
        self.kill();
        let data = self.folder.path().join("data");
        fs::remove_dir_all(&data).expect("its data can be removed");
        let kept = ["--name=", "--initial-cluster=", "--initial-advertise-peer-urls=", "--data-dir="];
        let flags = self.flags.iter().filter(|flag| kept.iter().any(|kept| flag.starts_with(kept)));
        let restored = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "restore"])
            .arg(backup)
            .args(flags)
            .args(token.map(|token| format!("--initial-cluster-token={token}")))
            .output()
            .expect("etcdctl starts: `scripts/setup` installs it");
        assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
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

    /// Fills it until it raises the alarm `NOSPACE`; it must have been started with a small `--quota-backend-bytes`.
    ///
    /// # Panics
    ///
    /// When it takes hundreds of megabytes without complaint.
    pub fn fill(&self) {
        let value = "x".repeat(100_000);
        for _ in 0..2000 {
            if !self.try_etcdctl(&["put", "/filling", &value]).status.success() {
                assert!(self.etcdctl(&["alarm", "list"]).contains("NOSPACE"));
                return;
            }
        }
        panic!("etcd has no quota");
    }

    /// Makes room in an etcd that was filled, and disarms its alarm.
    ///
    /// # Panics
    ///
    /// When etcd does not do it.
    pub fn make_space(&self) {
        let status = self.etcdctl(&["get", "/filling", "--keys-only", "--write-out=fields"]);
        let revision = status.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).expect("a revision");
        self.etcdctl(&["compact", "--physical", revision]);
        self.etcdctl(&["defrag"]);
        self.etcdctl(&["alarm", "disarm"]);
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill`](Self::kill), without waiting for anything.
    ///
    /// # Panics
    ///
    /// When etcd is not installed.
    pub fn launch(&self) {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("etcd's log file");
        let mut command = Held::command(Path::new("etcd"));
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
            command.env_remove(name);
        }
        command.args(&self.flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = Held::start(command).expect("etcd starts: `scripts/setup` installs it");
        *self.process() = Some(process);
    }

    /// Waits until it says of itself that it is healthy: it runs, and knows a leader.
    ///
    /// # Panics
    ///
    /// When it is not healthy within 30 s; the message has the end of its log.
    pub fn await_health(&self) {
        match self.ready() {
            Ok(()) => {}
            Err(NotReady::PortTaken) => panic!("somebody took etcd's port while it was stopped:\n{}", self.log_tail()),
            Err(NotReady::Failed(why)) => panic!("{why}"),
        }
    }

    /// Whether it says of itself that it is healthy. Takes up to a second when it is frozen.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        metrics::fetch(self.metrics, "/health").is_ok_and(|body| body.contains(r#""health":"true""#))
    }

    /// Stops its threads where they are: connections stay open and nothing answers. All stand when it returns.
    ///
    /// # Panics
    ///
    /// When it is stopped.
    pub fn freeze(&self) {
        self.process().as_mut().expect("etcd is stopped").freeze();
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    ///
    /// # Panics
    ///
    /// When it is stopped.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// What each command line of etcdctl needs to reach it, beyond its endpoint.
    #[must_use]
    pub fn etcdctl_flags(&self) -> &[String] {
        &self.control_flags
    }

    /// Runs `etcdctl` against it and gives back what it printed.
    ///
    /// # Panics
    ///
    /// When it fails, with what it said.
    pub fn etcdctl(&self, args: &[&str]) -> String {
        let output = self.try_etcdctl(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {args:?}: {}\n{said}", output.status);
        String::from_utf8(output.stdout).expect("etcdctl prints text")
    }

    /// Runs `etcdctl` against it, whatever comes of it. Against a frozen etcd it gives up after 5 s.
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

    /// What it counts under exactly this name, all series of it summed: `metric("etcd_mvcc_put_total")`.
    ///
    /// # Panics
    ///
    /// When it does not answer, or knows no such metric.
    #[must_use]
    pub fn metric(&self, name: &str) -> f64 {
        self.metric_where(name, "")
    }

    /// As [`metric`](Self::metric), of those series alone whose labels contain `label`:
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

    /// All that it counts, at one moment.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics(metrics::fetch(self.metrics, "/metrics").expect("etcd tells its metrics"))
    }

    /// Whether it leads its cluster; `None` when it does not answer.
    pub(crate) fn leads(&self) -> Option<bool> {
        let text = metrics::fetch(self.metrics, "/metrics").ok()?;
        Some(metrics::sum(&text, "etcd_server_is_leader", "")? > 0.0)
    }

    pub(crate) fn ready(&self) -> Result<(), NotReady> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.is_healthy() {
            let ended = self.process().as_mut().map(Held::ended).expect("etcd is launched");
            let why = match ended {
                None if Instant::now() < deadline => {
                    thread::sleep(POLL);
                    continue;
                }
                None => format!("not healthy after {START_TIMEOUT:?}"),
                Some(end) => format!("ended, {end}"),
            };
            let log = self.log_tail();
            let taken = ended.is_some() && log.contains("address already in use");
            return Err(if taken { NotReady::PortTaken } else { NotReady::Failed(format!("etcd {why}:\n{log}")) });
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        self.process().as_mut().expect("etcd is stopped").signal(signal);
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
            eprintln!("--- etcd at {} said last:\n{}", self.client, self.log_tail());
        }
    }
}
