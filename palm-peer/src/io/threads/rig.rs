//! Makes tasks panic for tests: `PALM_TEST_PANIC=<task>[:<times>[:<file>]][,…]`, only in builds
//! with debug assertions.
//!
//! The task of this name panics this many times (once by default); with a file, not before it
//! exists, so that a test can choose the moment.

#[cfg(not(debug_assertions))]
use super::Name;

#[cfg(debug_assertions)]
pub(crate) use self::on::*;

/// Panics if a test wants the thread of this name to: never in a build without debug assertions.
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

    /// The part of `PALM_TEST_PANIC` about one task.
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
            let times = parts
                .next()
                .and_then(|times| times.parse().ok())
                .unwrap_or(1);
            Some(Self {
                task,
                left: AtomicU32::new(times),
                file: parts.next().map(PathBuf::from),
            })
        }

        /// Returns whether the task must panic now.
        pub(crate) fn is_due(&self) -> bool {
            self.file.as_ref().is_none_or(|file| file.exists())
        }

        fn is_left(&self) -> bool {
            self.left.load(Ordering::Relaxed) > 0
        }

        /// Panics, if it has not panicked often enough.
        pub(crate) fn go_off(&self) {
            let left = self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                });
            assert!(left.is_err(), "PALM_TEST_PANIC names {}", self.task);
        }
    }

    /// Returns the rig of a task.
    pub(crate) fn rig(name: Name) -> Option<&'static Rig> {
        RIGS.iter()
            .find(|rig| rig.task == name.as_str() && rig.is_left())
    }

    /// Panics if a test wants the thread of this name to.
    pub(crate) fn panic_if_rigged(name: Name) {
        if let Some(rig) = rig(name).filter(|rig| rig.is_due()) {
            rig.go_off();
        }
    }
}
