//! Faults of the network between hosts, each host in a network namespace of its own.

// A test speaks by panicking.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod harness;
