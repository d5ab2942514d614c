//! Attempts that are repeated until one succeeds.

use super::timer;
use palm_proto::backoff::Backoff;
use std::future::Future;

/// Makes attempts, with waits in between, until one has a value.
pub(crate) async fn until_some<T, F>(backoff: Backoff, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let mut failures = 0_u32;
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        timer::sleep(backoff.wait(failures, fastrand::f64())).await;
        failures = failures.saturating_add(1);
    }
}
