//! Has tasks panic for tests: `PALM_TEST_PANIC=<task>[:<times>[:<file>]][,…]`, in builds with debug assertions alone.
//!
//! The task of this name panics so many times (once by default); with a file, not before that is there, so that a test
//! chooses the moment.

#[cfg(not(debug_assertions))]
use super::Name;

#[cfg(debug_assertions)]
pub(crate) use self::on::*;

/// Panics where a test wants the thread of this name to: never in a build without debug assertions.
#[cfg(not(debug_assertions))]
pub(crate) fn panic_if_rigged(_: Name) {}

#[cfg(debug_assertions)]
mod on {
    use crate::io::threads::Name;
    use std::{
        env,
        path::PathBuf,
        sync::{
            LazyLock,
            atomic::{AtomicU32, Ordering},
        },
    };

    /// What `PALM_TEST_PANIC` says of one task.
    pub(crate) struct Rig {
        task: String,
        left: AtomicU32,
        file: Option<PathBuf>,
    }

    static RIGS: LazyLock<Vec<Rig>> = LazyLock::new(|| {
        let set = env::var("PALM_TEST_PANIC").unwrap_or_default();
        set.split(',').filter_map(Rig::read).collect()
    });

    impl Rig {
        fn read(set: &str) -> Option<Self> {
            let mut parts = set.splitn(3, ':');
            let task = parts.next()?.to_owned();
            let times = parts.next().and_then(|times| times.parse().ok()).unwrap_or(1);
            Some(Self { task, left: AtomicU32::new(times), file: parts.next().map(PathBuf::from) })
        }

        /// Whether the task is to panic now.
        pub(crate) fn is_due(&self) -> bool {
            self.file.as_ref().is_none_or(|file| file.exists())
        }

        fn is_left(&self) -> bool {
            self.left.load(Ordering::Relaxed) > 0
        }

        /// Panics, if that is not done yet.
        pub(crate) fn go_off(&self) {
            let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            assert!(left.is_err(), "PALM_TEST_PANIC names {}", self.task);
        }
    }

    /// Returns what is left to do for a task.
    pub(crate) fn rig(name: Name) -> Option<&'static Rig> {
        RIGS.iter().find(|rig| rig.task == name.as_str() && rig.is_left())
    }

    /// Panics where a test wants the thread of this name to.
    pub(crate) fn panic_if_rigged(name: Name) {
        if let Some(rig) = rig(name).filter(|rig| rig.is_due()) {
            rig.go_off();
        }
    }
}
