//! A lock on the machine: held by one test that measures, or shared by any number of tests
//! that mostly wait.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

static USERS: Mutex<Users> = Mutex::new(Users {
    alone: false,
    shared: 0,
});
static FREED: Condvar = Condvar::new();

#[derive(Debug)]
struct Users {
    alone: bool,
    /// Tests that share the machine, and those that wait until they can.
    shared: usize,
}

/// Gives the machine, or its share of it, back when it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Permit {
    alone: bool,
}

/// The machine for one test alone. Every test here begins with this or with [`shared`].
pub(crate) fn alone() -> Permit {
    let taken = |users: &mut Users| users.alone || users.shared > 0;
    FREED
        .wait_while(users(), taken)
        .unwrap_or_else(PoisonError::into_inner)
        .alone = true;
    Permit { alone: true }
}

/// The machine together with other tests that mostly wait for seconds to pass. They go first, so
/// that all of them wait at the same time.
pub(crate) fn shared() -> Permit {
    let mut users = users();
    users.shared += 1;
    drop(FREED.wait_while(users, |users| users.alone));
    Permit { alone: false }
}

fn users() -> MutexGuard<'static, Users> {
    USERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut users = users();
        if self.alone {
            users.alone = false;
        } else {
            users.shared -= 1;
        }
        FREED.notify_all();
    }
}
