//! PALM's protocol and decisions without I/O (*sans-I/O*): plain data, and state machines over it.
//!
//! Nothing in this crate waits, reads a clock, opens a socket or depends on an etcd client: its
//! `Cargo.toml` and `clippy.toml` enforce that. Events go in together with the time at which they
//! happened (`now`); values, lists of actions, and the time of the next call come out. The loops of
//! `palm-peer` carry the actions out. Thousands of histories with failures are therefore simulated
//! within a second.
//!
//! - [`types`]: what etcd holds and what is sent: records, keys, headers, tombstones.
//! - [`config`]: the settings, read and checked.
//! - [`zmtp`]: the part of ZeroMQ's protocol that peers speak.
//! - [`election`], [`lease`], [`removal`], [`etcd_history`], [`reflector`]: membership.
//! - [`registry`], [`pipeliner`]: the leader's duties.
//! - [`directory`], [`routing`], [`call`], [`replies`], [`job`], [`liveness`]: clients.
//! - [`limits`]: bounds on connections, bytes, requests and log lines.
//!
//! The crate's API is not stable: `palm-peer` re-exports the items that programs may rely on.

// Tests may read the clock once, as their starting point.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod backoff;
pub mod call;
pub mod call_slots;
pub mod certificate_expiry;
pub mod certificate_reload;
pub mod client_table;
pub mod config;
pub mod directory;
pub mod election;
pub mod endpoint_order;
pub mod etcd_history;
pub mod happy_eyeballs;
pub mod hedging;
pub mod http;
pub mod job;
pub mod lease;
pub mod limits;
pub mod liveness;
pub mod log_buffer;
pub mod log_history;
pub mod members;
pub mod mesh_scope;
pub mod pipeliner;
pub mod reflector;
pub mod registrations;
pub mod registry;
pub mod removal;
pub mod replies;
pub mod routing;
pub mod shutdown;
pub mod store;
pub mod supervision;
pub mod types;
pub mod unconfirmed;
pub mod zmtp;

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
