//! All I/O: one module per outside crate, and the protocol code shared by both ends
//! of a connection.

pub(crate) mod connect;
pub(crate) mod dealer;
pub(crate) mod etcd;
pub(crate) mod executor;
pub(crate) mod fd_limit;
pub(crate) mod function_threads;
pub(crate) mod handshake;
pub(crate) mod hedge;
#[cfg(feature = "logging")]
pub(crate) mod line_queue;
pub(crate) mod process_memory;
pub(crate) mod resolver;
pub(crate) mod retry;
mod rigged;
pub(crate) mod signal;
pub(crate) mod spans;
pub(crate) mod systemd;
pub(crate) mod tasks;
pub(crate) mod tcp;
pub(crate) mod tcp_state;
pub(crate) mod threads;
pub(crate) mod timer;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls_off.rs"]
pub(crate) mod tls;
mod tls_error_kind;
pub(crate) mod wall_clock;
pub(crate) mod zmq;
