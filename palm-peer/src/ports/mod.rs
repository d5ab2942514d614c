//! The only places that touch the outside: one module for each crate that does.

pub mod etcd;
pub mod runtime;
pub mod signal;
pub mod systemd;
pub mod timer;
pub mod zmq;
