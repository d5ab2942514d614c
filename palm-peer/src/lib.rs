//! Turns an ordinary server process into a peer of a PALM mesh: discovery, health and calls, without a daemon.
//!
//! A program names its functions, joins, and serves. The peer inside it registers in etcd, takes part in electing a leader,
//! and answers over `ZeroMQ`; the leader configures, probes and publishes all servers of the mesh.
//!
//! ```no_run
//! use palm_peer::{Config, FunctionError, Message, Server};
//!
//! async fn shout(message: Message) -> Result<Vec<u8>, FunctionError> {
//!     Ok(message.payload().to_ascii_uppercase())
//! }
//!
//! # async fn run() -> Result<(), palm_peer::Error> {
//! Server::new("text").function("shout", shout).run(Config::from_env()?, palm_peer::signals()?).await
//! # }
//! ```
//!
//! A client calls it:
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = palm_peer::Client::connect(palm_peer::Config::from_env()?).await?;
//! let answer = client.call("text.shout", "hello").await?;
//! assert_eq!(answer, "HELLO");
//! # Ok(()) }
//! ```
//!
//! # Features
//!
//! All but the last are on by default.
//!
//! - `cli`: command-line flags for a server's `main`: `main` and the module `flags`.
//! - `logging`: a logger for programs that have none, `logging::init`.
//! - `systemd`: notifications to systemd.
//! - `tls`: TLS in the mesh and with etcd. Without it, a configuration that asks for TLS is refused
//!   ([`ErrorKind::InvalidConfig`]).
//! - `bench`: for PALM's own benchmarks; nothing else.
//!
//! All futures and streams here run under any executor; [`block_on`] is there for programs that have none. The library
//! installs no logger, prints nothing and never ends the process; [`logging`] and [`flags`] do so for programs that ask them to.

// A test may start threads of its own.
#![cfg_attr(test, allow(clippy::disallowed_methods))]
// A library prints nothing; its user decides what is said.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod admin;
mod client;
mod config;
mod error;
#[cfg(feature = "cli")]
pub mod flags;
mod ingress;
mod io;
mod leader;
pub mod logging;
mod membership;
mod server;
mod sync;

pub use admin::{Admin, ResetReport};
pub use bytes::Bytes;
pub use client::job::{Job, JobError, JobResults, Progress};
pub use client::{Call, Client, ServerSummary};
pub use error::{CallError, Error, ErrorKind};
#[cfg(feature = "cli")]
pub use flags::main;
pub use membership::status::{PeerEvent, PeerState};
#[doc(inline)]
pub use palm_proto::{
    config::{Config, InvalidSetting, Tls},
    members::{ServerEntry, ServerStatus},
    types::{
        message::CallErrorKind,
        record::{InvalidRecord, Record},
        timestamp::{InvalidTimestamp, Timestamp},
    },
};
pub use server::peer::Peer;
pub use server::{FunctionError, Message, Server};

/// Returns a future that ends at the first SIGTERM, SIGINT or SIGHUP from now on, for [`Server::run`] and [`Peer::serve`].
/// From then on these signals no longer end the process by themselves, so await it at once: nothing else ends the process.
///
/// A second SIGTERM or SIGINT ends the drain of every server of the process (see [`Peer::serve`]). SIGHUP, which comes when
/// the terminal is closed, is left alone where it was ignored when the process started, as under `nohup`.
///
/// # Errors
/// [`ErrorKind::Io`] when the system refuses to tell of signals.
pub fn signals() -> Result<impl Future<Output = ()> + Send + Unpin, Error> {
    io::signal::termination()
        .map_err(|error| Error::new(ErrorKind::Io, "the system does not tell of signals").caused(error))
}

/// Runs a future on the executor of the library's own tasks, and blocks the calling thread until it ends. For the `main` of a
/// program that has no other executor: what the future waits for comes from tasks on the same threads, named `palm-io`, and
/// so costs no switch from one thread to another. That is half of what a call costs, or more (docs/benchmarks.md). Not to be
/// called from within a future, whose thread it would hold up.
///
/// There are half as many of these threads as cores, four at most, unless `ASYNC_STD_THREAD_COUNT` or a program that used
/// async-std before has set another number. They are those of async-std's own executor: `async_std::task::spawn` comes to
/// the same.
///
/// # Panics
/// When the future does, with its panic.
///
/// ```
/// assert_eq!(palm_peer::block_on(async { 6 * 7 }), 42);
/// ```
pub fn block_on<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    io::executor::block_on(future)
}

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
