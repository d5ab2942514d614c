//! A cluster of three etcd members.

use std::{net::Ipv4Addr, time::Duration};

use crate::{
    Etcd, Host,
    etcd::{NotReady, START_ATTEMPTS},
    eventually, free_port,
};

const MEMBERS: usize = 3;
const ELECTION_TIMEOUT: Duration = Duration::from_secs(20);

/// Three etcd processes that replicate each other, with etcd's default heartbeats and elections.
///
/// Each [`member`](Self::member) can be stopped, killed and frozen by itself.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Etcd>,
}

impl EtcdCluster {
    /// Starts the members and waits until each is healthy, 1 to 2 s.
    ///
    /// # Panics
    ///
    /// When they are not healthy within 30 s; the message has the end of a log.
    #[must_use]
    pub fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST)
    }

    /// As [`start`](Self::start); the members listen for clients at this address, such as that of a
    /// [`Host`](crate::Host).
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_at(address: Ipv4Addr) -> Self {
        (0..START_ATTEMPTS)
            .find_map(|_| Self::try_start(address))
            .unwrap_or_else(|| panic!("etcd found its ports taken {START_ATTEMPTS} times"))
    }

    /// Starts a member on each of these hosts, which also talk to each other over the
    /// network between them.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_on(hosts: &[&Host; MEMBERS]) -> Self {
        let peers = [0, 1, 2].map(|i| {
            let url = format!("http://{}:{}", hosts[i].address(), free_port());
            (format!("m{i}"), url)
        });
        let names = peers
            .each_ref()
            .map(|(name, url)| format!("{name}={url}"))
            .join(",");
        let launch = |((name, url), host): (&(String, String), &&Host)| {
            // Without pre-vote, a member that receives but cannot send would end each
            // of etcd's leaders.
            let builder = Etcd::builder().on(host).arg("--pre-vote=true");
            builder.launch(name, url, &names, &["100", "1000"])
        };
        let members: Vec<_> = peers.iter().zip(hosts).map(launch).collect();
        for member in &members {
            member.await_health();
        }
        Self { members }
    }

    fn try_start(address: Ipv4Addr) -> Option<Self> {
        let peers: Vec<_> = (0..MEMBERS)
            .map(|i| (format!("m{i}"), format!("http://127.0.0.1:{}", free_port())))
            .collect();
        let names: Vec<_> = peers
            .iter()
            .map(|(name, url)| format!("{name}={url}"))
            .collect();
        let names = names.join(",");
        let launch = |(name, url): &(String, String)| {
            Etcd::builder()
                .at(address)
                .launch(name, url, &names, &["100", "1000"])
        };
        let members: Vec<_> = peers.iter().map(launch).collect();
        for member in &members {
            match member.ready() {
                Ok(()) => {}
                Err(NotReady::PortTaken) => return None,
                Err(NotReady::Failed(why)) => panic!("{why}"),
            }
        }
        Some(Self { members })
    }

    /// Returns the member `i` of 0, 1 and 2.
    ///
    /// # Panics
    ///
    /// When there is no such member.
    #[must_use]
    pub fn member(&self, i: usize) -> &Etcd {
        &self.members[i]
    }

    /// Returns the members' client URLs, in order.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Etcd::endpoint).collect()
    }

    /// Returns which member leads. Members that do not answer are skipped; waits while none leads.
    ///
    /// # Panics
    ///
    /// When none leads for 20 s.
    #[must_use]
    pub fn leader(&self) -> usize {
        eventually("one of etcd's members leads", ELECTION_TIMEOUT, || {
            let mut leading = (0..MEMBERS).filter(|i| self.members[*i].leads() == Some(true));
            let leader = leading.next()?;
            leading.next().is_none().then_some(leader)
        })
    }

    /// Moves the leadership to the member `i`, and waits until that is done.
    ///
    /// # Panics
    ///
    /// When there is no leader to hand it over, or it does not.
    pub fn move_leader_to(&self, i: usize) {
        let status = self.members[i].etcdctl(&["endpoint", "status", "--write-out=simple"]);
        let id = status
            .split(", ")
            .nth(1)
            .expect("a member's id in etcd's status")
            .to_owned();
        let leader = self.leader();
        if leader != i {
            self.members[leader].etcdctl(&["move-leader", &id]);
            eventually("etcd's lead is handed over", ELECTION_TIMEOUT, || {
                (self.members[i].leads() == Some(true)).then_some(())
            });
        }
    }
}
