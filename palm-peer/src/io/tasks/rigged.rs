//! Has tasks panic for tests: `PALM_TEST_PANIC=<task>[:<times>[:<file>]][,…]`, in builds with debug assertions alone.
//!
//! The task of this name panics so many times (once by default); with a file, not before that is there, so that a test
//! chooses the moment.

#[cfg(debug_assertions)]
mod on {
    use crate::io::{tasks::Name, timer};
    use futures::{
        future::{Either, select},
        pin_mut,
    };
    use std::{
        env,
        future::{Future, pending},
        path::PathBuf,
        sync::{
            LazyLock,
            atomic::{AtomicU32, Ordering},
        },
        time::Duration,
    };

    /// How often the file is looked for.
    const POLL: Duration = Duration::from_millis(20);

    struct Rig {
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

        fn is_due(&self) -> bool {
            self.file.as_ref().is_none_or(|file| file.exists())
        }

        fn is_left(&self) -> bool {
            self.left.load(Ordering::Relaxed) > 0
        }

        fn go_off(&self) {
            let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            assert!(left.is_err(), "PALM_TEST_PANIC names {}", self.task);
        }
    }

    fn rig(name: Name) -> Option<&'static Rig> {
        RIGS.iter().find(|rig| rig.task == name.as_str() && rig.is_left())
    }

    pub(crate) async fn rigged<T>(name: Name, future: impl Future<Output = T>) -> T {
        let Some(rig) = rig(name) else { return future.await };
        let trigger = async {
            while !rig.is_due() {
                timer::sleep(POLL).await;
            }
            rig.go_off();
            pending::<()>().await;
        };
        pin_mut!(trigger, future);
        match select(trigger, future).await {
            Either::Left(((), future)) => future.await,
            Either::Right((value, _)) => value,
        }
    }

    pub(crate) fn panic_if_rigged(name: Name) {
        if let Some(rig) = rig(name).filter(|rig| rig.is_due()) {
            rig.go_off();
        }
    }
}

#[cfg(not(debug_assertions))]
mod off {
    use crate::io::tasks::Name;
    use std::future::Future;

    pub(crate) fn rigged<T, F: Future<Output = T>>(_: Name, future: F) -> F {
        future
    }

    pub(crate) fn panic_if_rigged(_: Name) {}
}

#[cfg(not(debug_assertions))]
pub(super) use off::{panic_if_rigged, rigged};
#[cfg(debug_assertions)]
pub(super) use on::{panic_if_rigged, rigged};
