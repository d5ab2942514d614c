//! Ports that no other program takes while a test owns them.

#[path = "../../palm-peer/src/testing/free_port.rs"]
mod shared;

/// Returns a free loopback port, which this process issues only once.
///
/// The port is below the range of ephemeral ports: so nothing takes it while its owner is stopped
/// for a restart, and a client that connects to it meanwhile cannot end up connected to itself.
///
/// # Panics
///
/// When no such port is free.
#[must_use]
pub fn free_port() -> u16 {
    shared::find().expect("a free port on 127.0.0.1")
}
