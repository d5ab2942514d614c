//! Tests that measure time, memory or processor time and so need a machine that does little else: one runs at a time, after
//! all others. `cargo test -p palm-tests --test quiet`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

mod bounds;
mod chaos;
#[path = "../common/mod.rs"]
mod common;
mod empty_mesh;
#[path = "../in_process/mod.rs"]
mod in_process;
mod many_servers;
mod memory;
mod zeromq_pitfalls;

static MACHINE: RwLock<()> = RwLock::new(());

/// The machine for one test alone. Every test here begins with this or with [`shared`].
fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// The machine together with other tests that mostly wait for seconds to pass.
fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}
