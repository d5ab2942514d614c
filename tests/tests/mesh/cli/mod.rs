//! palm-cli, as a person uses it: real etcd, real servers, and what the program says and ends with.

// A test fails by panicking.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod call;
mod exit;
mod job;
mod large_mesh;
mod reset;
mod rm;
mod status;
mod terminal;
mod world;
