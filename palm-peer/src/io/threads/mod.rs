//! The library's threads: each has a name, and no panic goes unnoticed.

mod name;
mod rig;

#[cfg(debug_assertions)]
pub(crate) use self::rig::rig;
pub(crate) use self::{name::Name, rig::panic_if_rigged};

use palm_proto::{limits::log_throttle::LogThrottle, types::text::panic_message};
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

/// The wait before a thread that panicked continues.
const THREAD_REST: Duration = Duration::from_millis(100);

/// An observer of thread failures in this process.
pub(crate) trait ObservesThreads: Send + Sync {
    /// The thread of this name failed with this message. It continues.
    fn thread_failed(&self, name: Name, failure: &str);
}

/// The observers that are alive.
static OBSERVERS: Mutex<Vec<Weak<dyn ObservesThreads>>> = Mutex::new(Vec::new());

/// Registers an observer of thread failures.
pub(crate) fn observe<T: ObservesThreads + 'static>(observer: &Arc<T>) {
    let observer: Weak<T> = Arc::downgrade(observer);
    let mut observers = OBSERVERS.lock().unwrap_or_else(PoisonError::into_inner);
    // Removes dropped observers: a process may have many servers one after the other.
    observers.retain(|observer| observer.strong_count() > 0);
    observers.push(observer);
}

/// Returns whether to log the failure of a task of this name: once a minute, because remote
/// peers may cause it.
pub(crate) fn may_log(name: Name) -> bool {
    static LOG: LazyLock<Mutex<LogThrottle<Name>>> = LazyLock::new(Mutex::default);
    LOG.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .should_log(name, Instant::now())
        .is_some()
}

/// Logs an error. The program's logger may panic, which must not end the supervision.
pub(crate) fn say(line: &str) {
    let _ = catch_unwind(|| log::error!(target: "palm_peer::io::tasks", "{line}"));
}

/// Starts a thread of the library with the system name `known_as`. It ends when `body` returns
/// `Ok`; after a panic, or an `Err` with the reason, all observers are notified and `body` runs
/// again. Fails when the system refuses a thread.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that starts threads"
)]
pub(crate) fn start_thread(
    name: Name,
    known_as: &str,
    body: impl FnMut() -> Result<(), String> + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new()
        .name(known_as.to_owned())
        .spawn(move || keep_thread(name, body))
        .map(drop)
}

fn keep_thread(name: Name, mut body: impl FnMut() -> Result<(), String>) {
    loop {
        let message = match catch_unwind(AssertUnwindSafe(&mut body)) {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(panic) => format!("it panicked: {}", panic_message(panic)),
        };
        let failure = format!("thread {name} failed: {message}");
        if may_log(name) {
            say(&format!("{failure}; it continues (logged once a minute)"));
        }
        let mut observers = OBSERVERS.lock().unwrap_or_else(PoisonError::into_inner);
        observers.retain(|observer| observer.strong_count() > 0);
        let live: Vec<_> = observers.iter().filter_map(Weak::upgrade).collect();
        drop(observers);
        for observer in live {
            observer.thread_failed(name, &failure);
        }
        thread::sleep(THREAD_REST);
    }
}

/// Calls a waker, which may belong to the program, and may panic.
pub(crate) fn wake(waker: std::task::Waker) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
        say(&format!("waking a task panicked: {}", panic_message(panic)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Deaf;

    impl ObservesThreads for Deaf {
        fn thread_failed(&self, _: Name, _: &str) {}
    }

    #[test]
    fn a_hundred_thousand_observers_leave_no_state() {
        for _ in 0..100_000 {
            observe(&Arc::new(Deaf));
        }
        let count = OBSERVERS.lock().expect("no panic with it in hand").len();
        assert!(
            count < 1_000,
            "{count} observers, of which only those of other tests are there"
        );
    }

    #[test]
    fn a_thread_continues_after_a_panic() {
        let mut runs = 0;
        keep_thread(Name::Test, || {
            runs += 1;
            match runs {
                1 => panic!("on purpose"),
                2 => Err("on purpose".to_owned()),
                _ => Ok(()),
            }
        });
        assert_eq!(runs, 3);
    }
}
