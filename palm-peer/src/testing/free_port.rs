//! Ports that no other program takes while a test owns them. Compiled into `palm_peer::testing`,
//! and into the harness of PALM's own tests.

use std::{
    collections::hash_map::RandomState,
    fs,
    hash::BuildHasher,
    io,
    net::TcpListener,
    sync::{Mutex, PoisonError},
};

/// Where the search starts; below are the ports of well-known services.
const LOWEST: u16 = 10_000;

/// The ports that this process has issued, so that two parallel tests never get the same.
static TAKEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());

/// Returns a free loopback port, which this process issues only once. Fails when none is free.
///
/// The port is below the range of ephemeral ports: so nothing takes it while its owner is stopped
/// for a restart, and a client that connects to it meanwhile cannot end up connected to itself.
pub(crate) fn find() -> io::Result<u16> {
    let end = ephemeral_start();
    let start = RandomState::new().hash_one(std::process::id()) % u64::from(end - LOWEST);
    // Less than the span of ports.
    let middle = LOWEST + u16::try_from(start).unwrap_or(0);
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let port = (middle..end)
        .chain(LOWEST..middle)
        .find(|port| !taken.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .ok_or_else(|| io::Error::other("no port is free on 127.0.0.1"))?;
    taken.push(port);
    Ok(port)
}

/// The first port that the kernel hands out by itself.
fn ephemeral_start() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .filter(|start| *start > LOWEST + 1_000)
        .unwrap_or(32_768)
}
