//! Locks that are held for a moment, and never across a wait.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, even if a holder panicked: no value behind these locks is ever left half updated.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
