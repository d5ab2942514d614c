//! The mesh as a whole: real etcd processes, real server processes, real sockets. One program, so
//! that the tests, which mostly wait, wait together. `cargo test -p palm-tests --test mesh`, with a
//! part of a name to choose: `… --test mesh jobs::`.
//!
//! A test that measures its own process, or that a busy machine would mislead, belongs to `quiet`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod blocking;
mod cli;
mod clock;
#[path = "../common/mod.rs"]
mod common;
mod disconnect;
mod documented_settings;
mod examples;
mod fencing;
mod functions;
mod harness;
mod history;
mod hostile;
mod idle;
#[path = "../in_process/mod.rs"]
mod in_process;
mod ingress;
mod input;
mod jobs;
mod joining;
mod links;
mod logging;
mod metrics;
mod network;
mod no_space;
mod outages;
mod protocol;
mod pylm_compatibility;
mod python;
mod python_stage;
mod readiness;
mod records;
mod removal;
mod roles;
mod runtimes;
#[path = "../../simulated/mod.rs"]
mod simulated;
mod simulated_servers;
mod supervision;
mod systemd;
mod testing;
mod tls;
#[path = "../../tls_client/mod.rs"]
mod tls_client;
mod traces;
mod witnesses;
mod zones;

use palm_tests::heavy;
