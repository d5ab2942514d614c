//! The file descriptors that a connection will need, reserved from when it is accepted.

use super::shared::Shared;
use crate::io::fd_limit;
use palm_proto::limits::connection_limiter::has_descriptors;
use std::{fs::File, io, os::fd::AsRawFd as _};

/// How many descriptors a connection needs besides the accepted one: both ends of its
/// connection to `ZeroMQ`.
const NEEDED: usize = 2;

/// Reserved descriptors. Closed on drop.
#[derive(Debug)]
pub(super) struct Reserve {
    _held: Vec<File>,
}

impl Reserve {
    /// Reserves the descriptors of a connection, unless too few would be left to the program.
    fn take(spare: &File) -> Option<Self> {
        let held: io::Result<Vec<File>> = (0..NEEDED).map(|_| spare.try_clone()).collect();
        let held = held.ok()?;
        // The system assigns the lowest free number.
        let highest = held
            .iter()
            .filter_map(|file| u64::try_from(file.as_raw_fd()).ok())
            .max()?;
        has_descriptors(fd_limit::limit(), highest).then_some(Self { _held: held })
    }

    /// Waits until the descriptors of a connection can be reserved.
    pub(super) async fn wait(shared: &Shared) -> Self {
        let mut paused = false;
        loop {
            if let Some(reserve) = Self::take(&shared.spare) {
                return reserve;
            }
            if !std::mem::replace(&mut paused, true) {
                shared
                    .metrics
                    .pause("there are too few file descriptors left");
            }
            shared.released().await;
        }
    }
}
