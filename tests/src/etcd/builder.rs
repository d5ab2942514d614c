//! Starting etcd.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Mutex,
};

use super::{Etcd, NotReady, etcd_flags};
use crate::{Certificate, Host, free_port};

/// How often a start is retried because a port was taken between its choice and its use.
pub(crate) const START_ATTEMPTS: usize = 5;

/// The configuration of an [`Etcd`]; from [`Etcd::builder`].
#[derive(Debug, Clone, Default)]
#[must_use = "does nothing until `start`"]
pub struct EtcdBuilder {
    flags: Vec<String>,
    control_flags: Vec<String>,
    tls: bool,
    address: Option<IpAddr>,
    /// What runs etcd on another host.
    launcher: Vec<String>,
}

impl EtcdBuilder {
    /// Adds a flag to etcd's command line, for instance `--auto-compaction-retention=1`. It
    /// overrides the harness's flags.
    pub fn arg(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// Adds a flag to each command line of [`Etcd::etcdctl`], for instance `--user=root:secret`.
    pub fn etcdctl_arg(mut self, flag: impl Into<String>) -> Self {
        self.control_flags.push(flag.into());
        self
    }

    /// Clients use TLS; its certificates are set with [`arg`](Self::arg).
    pub fn https(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Clients use TLS, with a certificate of the same authority; etcdctl uses its own.
    pub fn certified(mut self, certificate: &Certificate) -> Self {
        self.flags.extend(certificate.etcd_flags());
        self.control_flags.extend(certificate.etcdctl_flags());
        self.https()
    }

    /// Listens for clients at this address instead of 127.0.0.1, such as that of a
    /// [`Host`](crate::Host).
    pub fn at(mut self, address: impl Into<IpAddr>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Runs on this host of a network, where it listens at all ports at the host's address.
    pub(crate) fn on(mut self, host: &Host) -> Self {
        self.launcher = host.launcher();
        self.at(host.address())
    }

    /// Starts etcd with one member and waits until it is healthy, some 100 ms.
    ///
    /// Its election timeout is a tenth of etcd's default, which makes a start quick and allows
    /// leases of 1 s instead of 2 s; `arg("--heartbeat-interval=100")` and
    /// `arg("--election-timeout=1000")` bring back the defaults.
    ///
    /// # Panics
    ///
    /// When it is not healthy within 30 s; the message has the end of its log.
    #[must_use]
    pub fn start(self) -> Etcd {
        for _ in 0..START_ATTEMPTS {
            let peer = format!("http://127.0.0.1:{}", free_port());
            let etcd = self
                .clone()
                .launch("lone", &peer, &format!("lone={peer}"), &["10", "100"]);
            match etcd.ready() {
                Ok(()) => return etcd,
                Err(NotReady::PortTaken) => {}
                Err(NotReady::Failed(why)) => panic!("{why}"),
            }
        }
        panic!("etcd found its ports taken {START_ATTEMPTS} times")
    }

    /// Starts the member `name` of a cluster, and waits for nothing. `ticks`: heartbeat and
    /// election timeout in ms.
    pub(crate) fn launch(self, name: &str, peer: &str, members: &str, ticks: &[&str; 2]) -> Etcd {
        let folder = tempfile::Builder::new()
            .prefix("palm-etcd-")
            .tempdir()
            .expect("a temporary folder");
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let at = self.address.unwrap_or(here);
        let metrics_at = if self.launcher.is_empty() { here } else { at };
        let [client, metrics] =
            [at, metrics_at].map(|address| SocketAddr::from((address, free_port())));
        let scheme = if self.tls { "https" } else { "http" };
        let client_url = format!("{scheme}://{client}");
        let mut flags = vec![format!("--listen-metrics-urls=http://{metrics}")];
        let member = etcd_flags::Member {
            name,
            data: &folder.path().join("data"),
            client_url: &client_url,
            peer_url: peer,
            members,
            ticks: *ticks,
        };
        flags.extend(member.flags());
        flags.extend(self.flags);
        let etcd = Etcd {
            folder,
            flags,
            control_flags: self.control_flags,
            scheme,
            client,
            metrics,
            launcher: self.launcher,
            process: Mutex::new(None),
        };
        etcd.launch();
        etcd
    }
}
