//! Limits how many tests load the machine at a time.
//!
//! `cargo test` starts many more tests than that, in the order of their names: a waiting test costs
//! nothing, and long tests get their turn early.

use std::{
    cell::RefCell,
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

/// Tests that mostly wait, for processes and timers.
static LIGHT: Gate = Gate::new(8);
/// Tests that load the machine by themselves.
static HEAVY: Gate = Gate::new(2);

thread_local! {
    /// The permit of this thread's test; released when the test and its thread end.
    static HELD: RefCell<Option<Permit>> = const { RefCell::new(None) };
}

/// Waits until the test of this thread may start processes. The harness calls it
/// before the first one.
pub(crate) fn enter() {
    HELD.with_borrow_mut(|held| {
        if held.is_none() && is_test() {
            *held = Some(LIGHT.pass());
        }
    });
}

/// Waits until the test of this thread may load the machine, with hundreds of processes or
/// thousands of connections: one such test runs at a time, so that they do not starve each other
/// and the others. Must be called first in a test.
pub fn heavy() {
    HELD.with_borrow_mut(|held| {
        // Releases its permit before it waits for another.
        *held = None;
        if is_test() {
            *held = Some(HEAVY.pass());
        }
    });
}

/// Tests run on threads of their names, unless they run one by one on the main thread. Threads that
/// a test starts go with its permit.
fn is_test() -> bool {
    thread::current()
        .name()
        .is_some_and(|name| name.contains("::"))
}

/// Lets so many pass at a time.
#[derive(Debug)]
struct Gate {
    free: Mutex<usize>,
    freed: Condvar,
}

/// Gives its place back when it is dropped.
#[derive(Debug)]
struct Permit(&'static Gate);

impl Gate {
    const fn new(places: usize) -> Self {
        Self {
            free: Mutex::new(places),
            freed: Condvar::new(),
        }
    }

    fn pass(&'static self) -> Permit {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .freed
            .wait_while(free, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Permit(self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn the_gate_limits_tests_and_reuses_places() {
        static GATE: Gate = Gate::new(3);
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let _permit = GATE.pass();
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
        assert_eq!(*GATE.free.lock().unwrap(), 3);
    }
}
