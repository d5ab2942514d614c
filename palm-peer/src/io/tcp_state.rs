//! The kernel's view of a TCP connection: whether the peer has acknowledged what was sent.
//!
//! Read from `/proc/net/tcp`, which needs no privileges and no unsafe code. The file is long on a
//! host with many connections, so this is only used for connections that are suspect already.

use palm_proto::liveness::Delivery;
use rustix::net::{getpeername, getsockname};
use std::{fs, io, net::SocketAddr, os::fd::AsFd};

/// The `st` of an established connection.
const ESTABLISHED: &str = "01";
/// The values of `tr`: the retransmission timer, and the zero-window probe timer.
const RETRANSMIT: &str = "01";
const ZERO_WINDOW_PROBE: &str = "04";
/// How many retransmissions in a row are needed: a single packet may be lost.
const IN_VAIN: u32 = 2;

/// The two ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    local: SocketAddr,
    peer: SocketAddr,
}

impl Ends {
    /// Returns the ends of this connection. Fails when it has ended already.
    pub(crate) fn of(stream: &impl AsFd) -> io::Result<Self> {
        let peer = getpeername(stream)?.ok_or(io::ErrorKind::NotConnected)?;
        Ok(Self {
            local: getsockname(stream)?.try_into()?,
            peer: peer.try_into()?,
        })
    }

    /// Returns the peer's address.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Returns whether the peer's host has acknowledged what was sent.
    pub(crate) fn delivery(&self) -> Delivery {
        let table = if self.local.is_ipv4() {
            "/proc/self/net/tcp"
        } else {
            "/proc/self/net/tcp6"
        };
        fs::read_to_string(table).map_or(Delivery::Unknown, |table| self.look_up(&table))
    }

    fn look_up(&self, table: &str) -> Delivery {
        let ends = [hex(self.local), hex(self.peer)];
        let line = table.lines().find(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            fields.next() == Some(&ends[0]) && fields.next() == Some(&ends[1])
        });
        line.and_then(read).unwrap_or(Delivery::Unknown)
    }
}

/// Parses a line `sl local remote st tx:rx tr:when retrnsmt uid timeout …`.
fn read(line: &str) -> Option<Delivery> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, _, _, state, queues, timer, retransmits, _, probes, ..] = fields[..] else {
        return None;
    };
    let unacknowledged = u64::from_str_radix(queues.split(':').next()?, 16).ok()?;
    let retransmits = u32::from_str_radix(retransmits, 16).ok()?;
    let probes: u32 = probes.parse().ok()?;
    Some(match timer.split(':').next()? {
        _ if state != ESTABLISHED => Delivery::Unknown,
        _ if unacknowledged == 0 => Delivery::Acknowledged,
        RETRANSMIT if retransmits >= IN_VAIN => Delivery::Unacknowledged,
        ZERO_WINDOW_PROBE if probes > IN_VAIN => Delivery::Unacknowledged,
        ZERO_WINDOW_PROBE => Delivery::Acknowledged,
        _ => Delivery::Unknown,
    })
}

/// Returns an address in the table's format: groups of four bytes, each in the
/// machine's byte order.
fn hex(address: SocketAddr) -> String {
    let octets = match address {
        SocketAddr::V4(v4) => v4.ip().octets().to_vec(),
        SocketAddr::V6(v6) => v6.ip().octets().to_vec(),
    };
    let message = octets
        .as_chunks::<4>()
        .0
        .iter()
        .map(|word| format!("{:08X}", u32::from_ne_bytes(*word)));
    format!("{}:{:04X}", message.collect::<String>(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{
        executor::{TcpListener, TcpStream},
        timer,
    };
    use futures::{AsyncWriteExt as _, executor::block_on, future::join};
    use std::time::Duration;

    #[test]
    fn the_systems_tcp_table_is_read() {
        let line = |st: &str, tx: &str, tr: &str, retransmits: &str, probes: &str| {
            format!(
                "   1: 0100007F:1F90 0200000A:0050 {st} {tx}:00000000 {tr}:00000014 {retransmits}     0        {probes} 12345 2 0 20 4 30 10 -1"
            )
        };
        for (line, wanted) in [
            (
                line("01", "00000000", "00", "00000000", "0"),
                Delivery::Acknowledged,
            ),
            (
                line("01", "00000009", "01", "00000000", "0"),
                Delivery::Unknown,
            ),
            (
                line("01", "00000009", "01", "00000003", "0"),
                Delivery::Unacknowledged,
            ),
            (
                line("01", "00000009", "04", "00000000", "1"),
                Delivery::Acknowledged,
            ),
            (
                line("01", "00000009", "04", "00000000", "5"),
                Delivery::Unacknowledged,
            ),
            (
                line("08", "00000000", "00", "00000000", "0"),
                Delivery::Unknown,
            ),
            ("  sl  local_address".to_owned(), Delivery::Unknown),
        ] {
            let ends = Ends {
                local: "127.0.0.1:8080".parse().expect("an address"),
                peer: "10.0.0.2:80".parse().expect("an address"),
            };
            if cfg!(target_endian = "little") {
                assert_eq!(ends.look_up(&line), wanted, "{line}");
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn unread_bytes_are_acknowledged_by_the_peers_kernel() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            block_on(async {
                let Ok(listener) = TcpListener::bind(address).await else {
                    return;
                };
                let connecting = TcpStream::connect(listener.local_addr().expect("an address"));
                let (stream, accepted) = join(connecting, listener.accept()).await;
                let (mut stream, _accepted) =
                    (stream.expect("connects"), accepted.expect("accepts"));
                let ends = Ends::of(&stream).expect("two ends");
                stream.write_all(b"hello").await.expect("written");
                let mut delivery = ends.delivery();
                for _ in 0..500 {
                    if delivery == Delivery::Acknowledged {
                        break;
                    }
                    timer::sleep(Duration::from_millis(10)).await;
                    delivery = ends.delivery();
                }
                assert_eq!(delivery, Delivery::Acknowledged, "{address}");
            });
        }
    }
}
