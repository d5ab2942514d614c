//! The table of clients, and the timer that drops answers whose clients did not greet.

use crate::{
    ingress::Connection,
    io::{
        timer::{self, Sleep},
        zmq::Frames,
    },
};
use bytes::Bytes;
use futures::{
    FutureExt as _,
    future::{Fuse, FusedFuture as _},
};
use palm_proto::client_table::ClientTable;
use std::time::Instant;
use uuid::Uuid;

/// The clients that greeted, and their connections.
pub(super) struct GreetedClients {
    pub(super) table: ClientTable<Connection, Frames>,
    /// When to call [`GreetedClients::expire`], while answers wait.
    pub(super) expiry: Fuse<Sleep>,
}

impl GreetedClients {
    pub(super) fn new() -> Self {
        Self {
            table: ClientTable::default(),
            expiry: Fuse::terminated(),
        }
    }

    /// Holds an answer for a client that has not greeted yet.
    pub(super) fn hold(&mut self, client: Uuid, frames: &[Bytes]) {
        // Copied, because a slice of a few bytes would keep the whole buffer that it
        // was received in.
        let frames: Frames = frames
            .iter()
            .map(|frame| Bytes::copy_from_slice(frame))
            .collect();
        let bytes = frames.iter().map(Bytes::len).sum();
        self.table.hold(client, frames, bytes, Instant::now());
        self.arm();
    }

    /// Drops the answers that have expired.
    pub(super) fn expire(&mut self) {
        self.table.expire(Instant::now());
        self.arm();
    }

    fn arm(&mut self) {
        if let Some(expiry) = self.table.next_expiry()
            && self.expiry.is_terminated()
        {
            self.expiry = timer::sleep_until(expiry).fuse();
        }
    }
}
