//! Helpers for the examples that run a whole mesh in one program; normally each server is a
//! process. The examples are in the directory above; `cargo run --example printf -- run` runs one.

use futures::{channel::oneshot, executor::block_on};
use palm_peer::{Config, Error, Server};
use std::{
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long to wait for a mesh to be ready.
pub const READY_WITHIN: Duration = Duration::from_secs(20);

/// A server on a thread of this process. It leaves the mesh when it is dropped.
pub struct Hosted {
    leave: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Hosted {
    /// Joins the mesh and serves.
    ///
    /// # Errors
    /// As [`Server::join`].
    pub fn start(server: Server, options: Config) -> Result<Self, Error> {
        let peer = block_on(server.join(options))?;
        let (leave, left) = oneshot::channel();
        let thread = thread::spawn(move || block_on(peer.serve(left)));
        Ok(Self {
            leave: Some(leave),
            thread: Some(thread),
        })
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        drop(self.leave.take());
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            log::error!("{}", error.report());
        }
    }
}

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
