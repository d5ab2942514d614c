//! The command line of an etcd for tests. Compiled into `palm_peer::testing`, and into the harness
//! of PALM's own tests.

use std::{path::Path, process::Command, sync::OnceLock};

/// One member of an etcd for tests.
pub(crate) struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// The directory of its data.
    pub data: &'a Path,
    /// Where clients reach it.
    pub client_url: &'a str,
    /// Where the other members reach it.
    pub peer_url: &'a str,
    /// All members, as etcd writes them: `name=peer_url,…`.
    pub members: &'a str,
    /// Its heartbeat and its election timeout in ms; etcd's own are 100 and 1000. A tenth of them
    /// makes a start quick, and allows leases of 1 s instead of 2 s.
    pub ticks: [&'a str; 2],
}

impl Member<'_> {
    /// Returns its flags.
    pub(crate) fn flags(&self) -> Vec<String> {
        let data = self.data.display().to_string();
        let mut flags = [
            ("name", self.name),
            ("data-dir", &data),
            ("listen-client-urls", self.client_url),
            ("advertise-client-urls", self.client_url),
            ("listen-peer-urls", self.peer_url),
            ("initial-advertise-peer-urls", self.peer_url),
            ("initial-cluster", self.members),
            ("heartbeat-interval", self.ticks[0]),
            ("election-timeout", self.ticks[1]),
            ("logger", "zap"),
            ("log-outputs", "stderr"),
        ]
        .map(|(flag, value)| format!("--{flag}={value}"))
        .to_vec();
        flags.extend(knows_no_fsync().then(|| "--unsafe-no-fsync".to_owned()));
        flags
    }
}

/// Returns whether this etcd supports not waiting for the disk, which makes tests faster.
fn knows_no_fsync() -> bool {
    static KNOWS: OnceLock<bool> = OnceLock::new();
    *KNOWS.get_or_init(|| {
        let probe = Command::new("etcd")
            .args(["--unsafe-no-fsync", "--version"])
            .output();
        probe.is_ok_and(|probe| probe.status.success())
    })
}

/// Returns whether a log of etcd says that one of its ports is in use.
pub(crate) fn is_port_taken(log: &str) -> bool {
    log.contains("address already in use")
}
