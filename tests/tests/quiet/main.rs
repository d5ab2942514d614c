//! Tests that measure time, memory or processor time and so need a machine that does little else:
//! one runs at a time, after all others. `cargo test -p palm-tests --test quiet`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bounds;
mod chaos;
#[path = "../common/mod.rs"]
mod common;
mod empty_mesh;
mod etcd_members;
#[path = "../in_process/mod.rs"]
mod in_process;
mod machine;
mod many_servers;
mod memory;
mod zeromq_pitfalls;

use machine::{alone, shared};
