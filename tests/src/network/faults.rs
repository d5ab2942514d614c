//! The faults that the router can inject.

use super::{Flow, Host, Network, exec};
use std::{net::SocketAddrV4, sync::PoisonError};

/// The rule of iptables about packets between these hosts.
fn between(from: Option<&Host>, to: Option<&Host>, then: &[&str]) -> Vec<String> {
    let ends = [("-s", from), ("-d", to)].into_iter();
    let ends = ends.filter_map(|(flag, host)| Some([flag.to_owned(), host?.address.to_string()]));
    ends.flatten()
        .chain(then.iter().map(ToString::to_string))
        .collect()
}

impl Network {
    /// Drops all packets of one connection, in both directions.
    pub fn black_hole(&self, flow: Flow) {
        for Flow { from, to } in [
            flow,
            Flow {
                from: flow.to,
                to: flow.from,
            },
        ] {
            let ports = [from.port(), to.port()].map(|port| port.to_string());
            let ends = [from.ip(), to.ip()].map(ToString::to_string);
            self.rule(&[
                "from",
                &ends[0],
                "to",
                &ends[1],
                "ipproto",
                "tcp",
                "sport",
                &ports[0],
                "dport",
                &ports[1],
                "blackhole",
            ]);
        }
    }

    /// Drops all packets between a host and an endpoint, of existing and new connections.
    pub fn black_hole_endpoint(&self, host: &Host, endpoint: SocketAddrV4) {
        let (port, ends) = (
            endpoint.port().to_string(),
            [&host.address, endpoint.ip()].map(ToString::to_string),
        );
        self.rule(&[
            "from",
            &ends[0],
            "to",
            &ends[1],
            "ipproto",
            "tcp",
            "dport",
            &port,
            "blackhole",
        ]);
        self.rule(&[
            "from",
            &ends[1],
            "to",
            &ends[0],
            "ipproto",
            "tcp",
            "sport",
            &port,
            "blackhole",
        ]);
    }

    /// Drops all packets between two hosts.
    pub fn cut(&self, one: &Host, other: &Host) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Drops all packets from one host to another; those the other way arrive.
    pub fn cut_one_way(&self, from: &Host, to: &Host) {
        self.drop_packets(Some(from), Some(to));
    }

    /// Drops all packets from and to a host, as after a power failure.
    pub fn cut_off(&self, host: &Host) {
        let address = host.address.to_string();
        self.rule(&["from", &address, "blackhole"]);
        self.rule(&["to", &address, "blackhole"]);
    }

    /// Answers all TCP packets from one host to another with a reset, like a rejecting firewall.
    pub fn reject(&self, from: &Host, to: &Host) {
        self.reject_packets(Some(from), Some(to));
    }

    /// Answers all TCP packets from a host to an endpoint with a reset, of existing and
    /// new connections.
    pub fn reject_endpoint(&self, from: &Host, endpoint: SocketAddrV4) {
        let (from, to, port) = (
            from.address.to_string(),
            endpoint.ip().to_string(),
            endpoint.port().to_string(),
        );
        let packets = ["-s", &from, "-d", &to, "-p", "tcp", "--dport", &port];
        self.filter(
            &[
                &packets[..],
                &["-j", "REJECT", "--reject-with", "tcp-reset"],
            ]
            .concat(),
        );
    }

    /// Drops all packets from one host to another; `None` means all hosts.
    pub fn drop_packets(&self, from: Option<&Host>, to: Option<&Host>) {
        self.filter(&between(from, to, &["-j", "DROP"]));
    }

    /// Answers all TCP packets from one host to another with a reset; `None` means all hosts.
    pub fn reject_packets(&self, from: Option<&Host>, to: Option<&Host>) {
        self.filter(&between(
            from,
            to,
            &["-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"],
        ));
    }

    /// Drops this percentage of packets from one host to another, at random; `None`
    /// means all hosts.
    pub fn lose_packets(&self, from: Option<&Host>, to: Option<&Host>, percent: u8) {
        let probability = format!("{:.2}", f64::from(percent) / 100.0);
        let lose = [
            "-m",
            "statistic",
            "--mode",
            "random",
            "--probability",
            &probability,
            "-j",
            "DROP",
        ];
        self.filter(&between(from, to, &lose));
    }

    /// Undoes all faults.
    pub fn heal(&self) {
        for undo in std::mem::take(&mut *self.faults.lock().unwrap_or_else(PoisonError::into_inner))
        {
            exec(
                &self.router(),
                &undo.iter().map(String::as_str).collect::<Vec<_>>(),
            );
        }
    }

    fn rule(&self, rule: &[&str]) {
        self.fault(
            &[&["ip", "rule", "add"], rule].concat(),
            &[&["ip", "rule", "del"], rule].concat(),
        );
    }

    fn filter<T: AsRef<str>>(&self, rule: &[T]) {
        let rule: Vec<&str> = rule.iter().map(AsRef::as_ref).collect();
        self.fault(
            &[&["iptables", "-A", "FORWARD"], &rule[..]].concat(),
            &[&["iptables", "-D", "FORWARD"], &rule[..]].concat(),
        );
    }

    fn fault(&self, fault: &[&str], undo: &[&str]) {
        exec(&self.router(), fault);
        let undo = undo.iter().map(ToString::to_string).collect();
        self.faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(undo);
    }
}
