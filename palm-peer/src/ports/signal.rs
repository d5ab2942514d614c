//! SIGTERM and SIGINT: the only user of async-signal.

use async_signal::{Signal, Signals};
use futures::StreamExt as _;
use std::{future::Future, io};

/// A future that ends at the first SIGTERM or SIGINT after this call. From then on these signals no longer end the process.
///
/// # Errors
/// When the system refuses.
pub fn termination() -> io::Result<impl Future<Output = ()> + Send + Unpin> {
    let mut signals = Signals::new([Signal::Term, Signal::Int])?;
    Ok(Box::pin(async move {
        // The stream does not end before the program.
        while let Some(Err(_)) = signals.next().await {}
    }))
}
