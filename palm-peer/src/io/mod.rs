//! The only places that touch the outside: one module for each crate that does, and what is the same
//! at both ends of a connection.

pub mod connect;
pub mod dealer;
pub mod etcd;
pub mod executor;
pub mod fd_limit;
pub mod handshake;
#[cfg(feature = "logging")]
pub mod line_queue;
pub mod resolver;
mod rigged;
pub mod signal;
pub mod systemd;
pub mod tasks;
pub mod tcp;
pub mod tcp_state;
pub mod threads;
pub mod timer;
pub mod tls;
pub mod wall_clock;
pub mod zmq;
