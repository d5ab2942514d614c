//! A network of hosts in which tests can inject faults.
//!
//! Each host is a network namespace with one link to a router, which is a namespace too; the test
//! itself is one more host. All faults happen at the router, so both ends of a connection see what
//! they would see in a real network: packets that never arrive, or a forged reset.

mod faults;

use std::{
    fmt, fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{Mutex, OnceLock},
    time::Duration,
};

use crate::{Process, ProcessBuilder, eventually, gate};

/// The range that RFC 2544 sets aside for tests of networks: two times 256 subnets
/// of 256 addresses.
const RANGE: [(u8, u8); 2] = [(198, 18), (198, 19)];
/// The router's address at each of its links.
const ROUTER: u8 = 1;
/// The first host's.
const FIRST: u8 = 10;
/// The test's own.
const HERE: u8 = 254;
/// An address without a host, a black hole.
const SPARE: u8 = 200;

/// A running network. Dropping it removes everything.
#[derive(Debug)]
pub struct Network {
    /// The name of the link to the test, and the beginning of the names of all namespaces.
    name: String,
    subnet: [u8; 3],
    hosts: Vec<Host>,
    here: Host,
    /// The commands that undo the faults, as arguments after `ip netns exec ROUTER`.
    faults: Mutex<Vec<Vec<String>>>,
}

/// One host of a [`Network`].
#[derive(Debug)]
pub struct Host {
    name: String,
    /// `None` for the test's own.
    namespace: Option<String>,
    address: Ipv4Addr,
}

/// One TCP connection, by its two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The end of the host that was asked.
    pub from: SocketAddrV4,
    /// The other end.
    pub to: SocketAddrV4,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} - {}", self.from, self.to)
    }
}

impl Network {
    /// Starts a network with these hosts. If namespaces are not permitted, or `ip` or `iptables` is
    /// not installed, prints the reason and returns `None`: the test should return then.
    ///
    /// # Panics
    ///
    /// When it fails half-way.
    #[must_use]
    pub fn start(hosts: &[&str]) -> Option<Self> {
        static POSSIBLE: OnceLock<Result<(), String>> = OnceLock::new();
        if let Err(why) = POSSIBLE.get_or_init(is_possible) {
            eprintln!("SKIPPED: no network namespaces here: {why}");
            return None;
        }
        gate::enter();
        let (name, subnet) = reserve();
        let mut network = Self {
            here: Host {
                name: "here".into(),
                namespace: None,
                address: within(subnet, HERE),
            },
            name,
            subnet,
            hosts: Vec::new(),
            faults: Mutex::default(),
        };
        network.build(hosts);
        Some(network)
    }

    fn build(&mut self, hosts: &[&str]) {
        let (router, name, subnet) = (self.router(), self.name.clone(), self.subnet);
        let [gateway, here] = [ROUTER, HERE].map(|last| within(subnet, last).to_string());
        exec(&router, &["ip", "link", "set", "lo", "up"]);
        exec(
            &router,
            &["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"],
        );
        // The test's own link is there already: it reserved the subnet.
        ip(&["addr", "add", &here, "peer", &gateway, "dev", &name]);
        ip(&["link", "set", &name, "up"]);
        ip(&[
            "route",
            "add",
            &format!("{}/24", within(subnet, 0)),
            "via",
            &gateway,
            "dev",
            &name,
        ]);
        exec(
            &router,
            &["ip", "addr", "add", &gateway, "peer", &here, "dev", "here"],
        );
        exec(&router, &["ip", "link", "set", "here", "up"]);
        for (host, last) in hosts.iter().zip(FIRST..) {
            let namespace = format!("{name}-{host}");
            let address = within(subnet, last);
            let own = address.to_string();
            ip(&["netns", "add", &namespace]);
            let link = [
                "ip", "link", "add", "name", host, "type", "veth", "peer", "name", "eth0", "netns",
                &namespace,
            ];
            exec(&router, &link);
            exec(
                &router,
                &["ip", "addr", "add", &gateway, "peer", &own, "dev", host],
            );
            exec(&router, &["ip", "link", "set", "dev", host, "up"]);
            exec(&namespace, &["ip", "link", "set", "lo", "up"]);
            exec(
                &namespace,
                &["ip", "addr", "add", &own, "peer", &gateway, "dev", "eth0"],
            );
            exec(&namespace, &["ip", "link", "set", "eth0", "up"]);
            exec(
                &namespace,
                &["ip", "route", "add", "default", "via", &gateway],
            );
            self.hosts.push(Host {
                name: (*host).to_owned(),
                namespace: Some(namespace),
                address,
            });
        }
        exec(
            &router,
            &["ip", "route", "add", "blackhole", &self.spare().to_string()],
        );
    }

    /// The host of this name.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        self.hosts
            .iter()
            .find(|host| host.name == name)
            .unwrap_or_else(|| panic!("there is no host {name}"))
    }

    /// Returns the test's own host: all hosts reach programs that listen at its address,
    /// such as an etcd.
    #[must_use]
    pub fn here(&self) -> &Host {
        &self.here
    }

    /// Returns an address without a host, a black hole.
    #[must_use]
    pub fn spare(&self) -> Ipv4Addr {
        within(self.subnet, SPARE)
    }

    fn router(&self) -> String {
        format!("{}-router", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in self.hosts.iter().filter_map(|host| host.namespace.as_ref()) {
            let _ = fs::remove_dir_all(settings(namespace));
        }
        remove(&self.name);
    }
}

impl Host {
    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Returns the beginning of the command line of a program that runs on this host.
    pub(crate) fn launcher(&self) -> Vec<String> {
        let inside = |namespace: &String| ["ip", "netns", "exec", namespace].map(str::to_owned);
        self.namespace
            .as_ref()
            .map(|namespace| inside(namespace).to_vec())
            .unwrap_or_default()
    }

    /// For a program that runs on this host.
    pub fn builder(&self, program: impl AsRef<Path>) -> ProcessBuilder {
        match &self.namespace {
            Some(namespace) => Process::builder("ip")
                .args(["netns", "exec", namespace])
                .arg(program.as_ref().as_os_str()),
            None => Process::builder(program),
        }
    }

    /// Makes programs that start on this host from now on resolve these names to these
    /// addresses, in this order.
    ///
    /// # Panics
    ///
    /// On the test's own host, whose names are the machine's.
    pub fn know(&self, names: &[(&str, Ipv4Addr)]) {
        let namespace = self
            .namespace
            .as_ref()
            .expect("the names of the machine are not the test's to change");
        let mut lines = vec!["127.0.0.1 localhost\n".to_owned()];
        lines.extend(
            names
                .iter()
                .map(|(name, address)| format!("{address} {name}\n")),
        );
        fs::create_dir_all(settings(namespace)).expect("the settings of a namespace");
        fs::write(settings(namespace).join("hosts"), lines.concat()).expect("its names");
    }

    /// Makes programs that start on this host from now on use this nameserver for all other names.
    ///
    /// # Panics
    ///
    /// On the test's own host, whose nameserver is the machine's.
    pub fn ask_nameserver(&self, nameserver: Ipv4Addr) {
        let namespace = self
            .namespace
            .as_ref()
            .expect("the nameserver of the machine is not the test's to change");
        fs::create_dir_all(settings(namespace)).expect("the settings of a namespace");
        let lines = format!("nameserver {nameserver}\noptions timeout:30 attempts:1\n");
        fs::write(settings(namespace).join("resolv.conf"), lines).expect("its nameserver");
    }

    /// The connections that this host has open to an endpoint, `host:port` with or
    /// without `tcp://`.
    ///
    /// # Panics
    ///
    /// When that is not an address.
    #[must_use]
    pub fn flows_to(&self, endpoint: &str) -> Vec<Flow> {
        let wanted: SocketAddr = endpoint
            .trim_start_matches("tcp://")
            .parse()
            .expect("an address and a port");
        let list = ["ss", "-Htn", "state", "established"];
        let listed = match &self.namespace {
            Some(namespace) => exec(namespace, &list),
            None => run(&list).unwrap_or_else(|error| panic!("{error}")),
        };
        let flow = |line: &str| {
            let mut ends = line
                .split_whitespace()
                .skip(2)
                .filter_map(|end| end.parse::<SocketAddrV4>().ok());
            Some(Flow {
                from: ends.next()?,
                to: ends.next()?,
            })
        };
        listed
            .lines()
            .filter_map(flow)
            .filter(|flow| SocketAddr::V4(flow.to) == wanted)
            .collect()
    }

    /// Returns the only connection that this host has open to an endpoint. Waits for
    /// others to be closed.
    ///
    /// # Panics
    ///
    /// When there is not exactly one within 5 s.
    #[must_use]
    pub fn flow_to(&self, endpoint: &str) -> Flow {
        let what = format!("{} has one connection to {endpoint}", self.name);
        eventually(&what, Duration::from_secs(5), || {
            match self.flows_to(endpoint)[..] {
                [flow] => Some(flow),
                _ => None,
            }
        })
    }
}

fn within(subnet: [u8; 3], last: u8) -> Ipv4Addr {
    Ipv4Addr::new(subnet[0], subnet[1], subnet[2], last)
}

/// Where `ip netns exec` looks for what a namespace has instead of the files in `/etc`.
fn settings(namespace: &str) -> PathBuf {
    Path::new("/etc/netns").join(namespace)
}

/// Checks everything that a network needs, in a separate namespace.
fn is_possible() -> Result<(), String> {
    let name = format!("palm-try-{}", process::id());
    run(&["ip", "netns", "add", &name])?;
    let needs = "echo 1 >/proc/sys/net/ipv4/ip_forward && ip link add name one type veth peer name two && \
                 ip rule add from 198.18.0.1 ipproto tcp sport 1 blackhole && ss -Htn && iptables -S FORWARD";
    let tried = run(&["ip", "netns", "exec", &name, "sh", "-c", needs]).map(drop);
    run(&["ip", "netns", "del", &name])?;
    tried
}

/// Creates the link between the test and its router, whose name reserves the subnet.
fn reserve() -> (String, [u8; 3]) {
    let subnets = RANGE
        .into_iter()
        .flat_map(|(a, b)| (0..=u8::MAX).map(move |c| [a, b, c]));
    for subnet in subnets {
        let name = format!("palm{}x{}", subnet[1], subnet[2]);
        let router = format!("{name}-router");
        clear_up(&name);
        if run(&["ip", "netns", "add", &router]).is_err() {
            continue;
        }
        let link = [
            "ip", "link", "add", "name", &name, "type", "veth", "peer", "name", "here", "netns",
            &router,
        ];
        if run(&link).is_ok() {
            ip(&["link", "set", &name, "alias", &process::id().to_string()]);
            return (name, subnet);
        }
        let _ = run(&["ip", "netns", "del", &router]);
    }
    panic!("all {} subnets for tests are in use", RANGE.len() * 256);
}

/// Removes the network of a test that was killed.
fn clear_up(name: &str) {
    let owner = fs::read_to_string(format!("/sys/class/net/{name}/ifalias")).unwrap_or_default();
    if owner
        .trim()
        .parse::<u32>()
        .is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    {
        remove(name);
    }
}

/// Removes all namespaces of a network, and the links with them. The router goes last: its name
/// reserves the others.
fn remove(name: &str) {
    let _ = run(&["ip", "link", "del", name]);
    let listed = run(&["ip", "netns", "list"]).unwrap_or_default();
    let own = format!("{name}-");
    let mut namespaces: Vec<_> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    namespaces.retain(|namespace| namespace.starts_with(&own));
    namespaces.sort_by_key(|namespace| namespace.ends_with("-router"));
    for namespace in namespaces {
        let _ = run(&["ip", "netns", "del", namespace]);
    }
}

fn ip(args: &[&str]) -> String {
    run(&[&["ip"], args].concat()).unwrap_or_else(|error| panic!("{error}"))
}

fn exec(namespace: &str, command: &[&str]) -> String {
    ip(&[&["netns", "exec", namespace], command].concat())
}

/// Runs a command. Returns its output, or its error output.
fn run(command: &[&str]) -> Result<String, String> {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let failed = |why: &dyn fmt::Display| format!("`{}`: {why}", command.join(" "));
    let output = output.map_err(|error: io::Error| failed(&error))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(failed(&String::from_utf8_lossy(&output.stderr).trim_end()))
    }
}
