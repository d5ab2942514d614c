//! palm-cli as it is used: real etcd, real servers, and the output and exit status of the program.

// Tests fail by panicking.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod call;
mod completion;
mod exit;
mod job;
mod large_mesh;
mod logs;
mod metrics;
mod reset;
mod rm;
mod stats;
mod status;
mod terminal;
mod wait;
mod world;
