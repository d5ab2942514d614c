//! Locks that are held for a moment, and never across a wait.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whatever happened to whoever held it: nothing behind these locks is left half done.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
