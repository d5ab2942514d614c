//! The protocol and the decisions of PALM without any I/O: plain data, and state machines over it.
//!
//! Nothing in this crate waits, reads a clock, opens a socket or knows etcd, which its dependencies make sure of: there is no
//! executor, no socket and no clock among them. Events go in together with the time at which they happened (`now`), and what
//! is to be done comes out: values, lists of actions, and the time at which to ask again. The loops of `palm-peer` carry the
//! actions out. So thousands of histories, with every failure that can be thought of, are simulated within a second.
//!
//! - [`types`]: what lies in etcd and what is sent: records, keys, headers, tombstones.
//! - [`config`]: the settings, read and checked.
//! - [`zmtp`]: the part of ZeroMQ's protocol that peers speak.
//! - [`election`], [`lease`], [`removal`], [`etcd_history`], [`reflector`]: membership.
//! - [`registry`], [`pipeliner`]: the leader's duties.
//! - [`directory`], [`routing`], [`call`], [`job`], [`liveness`]: clients.
//! - [`limits`]: bounds on connections, bytes, requests and log lines.
//!
//! The crate makes no promise of stability of its own: `palm-peer` re-exports what programs may rely on.

// A test may take the clock for its starting point.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod backoff;
pub mod call;
pub mod certificate_expiry;
pub mod client_table;
pub mod config;
pub mod directory;
pub mod election;
pub mod etcd_history;
pub mod happy_eyeballs;
pub mod job;
pub mod lease;
pub mod limits;
pub mod liveness;
pub mod log_buffer;
pub mod members;
pub mod mesh_scope;
pub mod pipeliner;
pub mod reflector;
pub mod registry;
pub mod removal;
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
