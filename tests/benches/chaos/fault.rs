//! The network faults between hosts, and who reaches whom under them.

use palm_tests::Network;
use std::fmt;

/// Each has a server; the first three have a member of etcd as well.
pub(crate) const HOSTS: [&str; 5] = ["a", "b", "c", "d", "e"];
/// How many of them.
pub(crate) const MEMBERS: usize = 3;
/// How many packets of 100 are lost.
const LOSS: u8 = 30;

/// What happens to the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// None arrives.
    Cut,
    /// Packets in one direction are dropped: those that the first host sends, or those to it.
    CutFrom,
    CutTo,
    /// Packets in one direction are answered with a reset.
    RejectFrom,
    RejectTo,
    /// Some are lost, both ways.
    Loss,
}

const KINDS: [Kind; 6] = [
    Kind::Cut,
    Kind::CutFrom,
    Kind::CutTo,
    Kind::RejectFrom,
    Kind::RejectTo,
    Kind::Loss,
];

/// Where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Between two hosts.
    Link(usize, usize),
    /// Between a host and all others.
    Host(usize),
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    kind: Kind,
    place: Place,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (one, other) = match self.place {
            Place::Link(one, other) => (HOSTS[one], HOSTS[other]),
            Place::Host(host) => (HOSTS[host], "all"),
        };
        match self.kind {
            Kind::Cut => write!(f, "{one} - {other} cut"),
            Kind::CutFrom => write!(f, "{one} > {other} cut"),
            Kind::CutTo => write!(f, "{other} > {one} cut"),
            Kind::RejectFrom => write!(f, "{one} > {other} rejected"),
            Kind::RejectTo => write!(f, "{other} > {one} rejected"),
            Kind::Loss => write!(f, "{one} - {other} {LOSS} % loss"),
        }
    }
}

impl Fault {
    /// All faults of one link or one host, each once.
    pub(crate) fn all() -> Vec<Self> {
        let hosts = 0..HOSTS.len();
        let links = hosts
            .clone()
            .flat_map(|one| (one + 1..HOSTS.len()).map(move |other| Place::Link(one, other)));
        let places = links.chain(hosts.map(Place::Host));
        places
            .flat_map(|place| KINDS.into_iter().map(move |kind| Self { kind, place }))
            .collect()
    }

    /// Applies the fault to a network.
    pub(crate) fn apply(&self, network: &Network) {
        let host = |at: usize| Some(network.host(HOSTS[at]));
        let (one, other) = match self.place {
            Place::Link(one, other) => (host(one), host(other)),
            Place::Host(one) => (host(one), None),
        };
        match self.kind {
            Kind::Cut => {
                network.drop_packets(one, other);
                network.drop_packets(other, one);
            }
            Kind::CutFrom => network.drop_packets(one, other),
            Kind::CutTo => network.drop_packets(other, one),
            Kind::RejectFrom => network.reject_packets(one, other),
            Kind::RejectTo => network.reject_packets(other, one),
            Kind::Loss => {
                network.lose_packets(one, other, LOSS);
                network.lose_packets(other, one, LOSS);
            }
        }
    }

    /// Returns whether it may separate etcd's members from each other.
    fn is_lossy(&self) -> bool {
        self.kind == Kind::Loss
    }

    fn parts(&self, one: usize, other: usize) -> bool {
        let on_path = match self.place {
            Place::Link(a, b) => (a, b) == (one, other) || (b, a) == (one, other),
            Place::Host(host) => host == one || host == other,
        };
        on_path && !self.is_lossy()
    }
}

/// Whether connections between two hosts work.
pub(crate) fn reaches(faults: &[Fault], one: usize, other: usize) -> bool {
    one == other || !faults.iter().any(|fault| fault.parts(one, other))
}

/// Whether connections between a host and the client work.
pub(crate) fn is_reached_from_outside(faults: &[Fault], host: usize) -> bool {
    !faults
        .iter()
        .any(|fault| fault.place == Place::Host(host) && !fault.is_lossy())
}

/// How many other hosts reach this one.
pub(crate) fn reached_by(faults: &[Fault], host: usize) -> usize {
    (0..HOSTS.len())
        .filter(|other| *other != host && reaches(faults, *other, host))
        .count()
}

/// Whether a host reaches a member of etcd that reaches another member, and nothing
/// makes etcd slow.
pub(crate) fn reaches_etcd(faults: &[Fault], host: usize) -> bool {
    let has_quorum = |member: usize| {
        (0..MEMBERS)
            .filter(|other| reaches(faults, member, *other))
            .count()
            > MEMBERS / 2
    };
    let lossy = faults.iter().any(Fault::is_lossy);
    !lossy && (0..MEMBERS).any(|member| reaches(faults, host, member) && has_quorum(member))
}

/// Whether some instance of the first stage and some of the last one reach each other, and the
/// client reaches both.
pub(crate) fn has_path(faults: &[Fault], is_first: impl Fn(usize) -> bool) -> bool {
    let able = || (0..HOSTS.len()).filter(|host| is_reached_from_outside(faults, *host));
    able()
        .filter(|first| is_first(*first))
        .any(|first| able().any(|last| !is_first(last) && reaches(faults, first, last)))
}
