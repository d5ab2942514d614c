//! Makes tasks panic for tests: `PALM_TEST_PANIC`, see `threads/rig.rs`.

#[cfg(debug_assertions)]
pub(super) use self::on::rigged;
#[cfg(not(debug_assertions))]
use {super::threads::Name, std::future::Future};

/// Returns the future unchanged, in builds without debug assertions.
#[cfg(not(debug_assertions))]
pub(crate) fn rigged<T, F: Future<Output = T>>(_: Name, future: F) -> F {
    future
}

#[cfg(debug_assertions)]
mod on {
    use crate::io::{
        threads::{Name, rig},
        timer,
    };
    use futures::{
        future::{Either, select},
        pin_mut,
    };
    use std::{
        future::{Future, pending},
        time::Duration,
    };

    /// The interval at which a rig checks for its file.
    const POLL: Duration = Duration::from_millis(20);

    /// Runs the future, which panics where `PALM_TEST_PANIC` says so.
    pub(crate) async fn rigged<T>(name: Name, future: impl Future<Output = T>) -> T {
        let Some(rig) = rig(name) else {
            return future.await;
        };
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
}
