//! Turns an ordinary server process into a peer of a PALM mesh: service discovery, health checks,
//! failover and calls, without a daemon.
//!
//! A program names its functions, joins, and serves. The peer inside it registers in etcd, takes
//! part in leader election, and answers over `ZeroMQ`; the leader configures, probes and publishes
//! all servers of the mesh.
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
//! The first four are on by default.
//!
//! - `cli`: command-line flags for a server's `main`: `main` and the module `flags`.
//! - `logging`: a logger for programs that have none, `logging::init`.
//! - `systemd`: notifications to systemd.
//! - `tls`: TLS in the mesh and with etcd. Without it, a configuration that asks for TLS is refused
//!   ([`ErrorKind::InvalidConfig`]).
//! - `testing`: for tests of a program's own servers: the module `testing`, with a throwaway etcd.
//! - `tracing-subscriber`: feeds `_log_query` from a program's own subscriber of tracing,
//!   `logging::tracing_layer`.
//! - `tower`: layers of tower around the functions of a server, `Server::layer`.
//! - `tracing`: spans of the crate `tracing` for calls, jobs, and functions of servers.
//! - `opentelemetry`: these spans are linked across processes, for OpenTelemetry; includes `tracing`.
//! - `bench`: for PALM's own benchmarks; nothing else.
//!
//! All futures and streams run under any executor; [`block_on`] is for programs without one. The
//! library installs no logger, prints nothing and never ends the process, except through
//! [`logging`] and [`flags`], which a program calls explicitly.

// Tests may start threads.
#![cfg_attr(test, allow(clippy::disallowed_methods))]
// A library prints nothing.
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
#[cfg(feature = "testing")]
pub mod testing;

pub use admin::{Admin, ResetReport};
pub use bytes::Bytes;
pub use client::job::{Job, JobAnswers, JobError, JobResults, Progress};
pub use client::{Call, Client, ServerSummary, json_call::JsonCall};
pub use error::{CallError, Error, ErrorKind};
#[cfg(feature = "cli")]
pub use flags::main;
pub use membership::status::{PeerEvent, PeerState};
#[doc(inline)]
pub use palm_proto::{
    config::{Config, InvalidSetting, Setting, SettingScope, TlsMode},
    members::{ServerEntry, ServerStatus},
    types::{
        answer::Answer,
        message::CallErrorKind,
        meta::Meta,
        record::{InvalidRecord, Record},
        timestamp::{InvalidTimestamp, Timestamp},
    },
};
// What the public API is written with, so that programs need not name the versions.
#[doc(no_inline)]
pub use serde_json;
pub use server::local::{LocalCall, LocalServer};
pub use server::peer::Peer;
pub use server::{
    ApplicationError, FromMessage, FunctionError, IntoAnswer, Json, Message, Next, Server, State,
};
#[doc(no_inline)]
pub use uuid::Uuid;

/// Returns a future that ends at the first SIGTERM, SIGINT or SIGHUP from now on, for
/// [`Server::run`] and [`Peer::serve`]. From now on these signals no longer end the process by
/// themselves, so await the future at once.
///
/// A second SIGTERM or SIGINT ends the drain of every server of the process (see [`Peer::serve`]).
/// SIGHUP, which is sent when the terminal is closed, stays ignored if it was ignored when the
/// process started, as under `nohup`.
///
/// ```no_run
/// # async fn example(peer: palm_peer::Peer) -> Result<(), palm_peer::Error> {
/// let shutdown = palm_peer::signals()?;
/// peer.serve(shutdown).await
/// # }
/// ```
///
/// # Errors
/// [`ErrorKind::Io`] when the system refuses the signal handlers.
pub fn signals() -> Result<impl Future<Output = ()> + Send + Unpin, Error> {
    io::signal::termination()
        .map_err(|error| Error::new(ErrorKind::Io, "signals cannot be received").caused(error))
}

/// Runs a future on the executor of the library's tasks, and blocks the calling thread until it
/// ends. For the `main` of a program without another executor: the library's tasks run on the same
/// threads, named `palm-io`, which saves switches between threads, half of the cost of a call or
/// more (docs/benchmarks.md). Do not call it inside a future: it would block that future's thread.
///
/// The executor has half as many threads as there are cores, at most four, unless
/// `ASYNC_STD_THREAD_COUNT`, or a program that used async-std before, has set another number. It is
/// async-std's own executor, also used by `async_std::task::spawn`. Functions of a server that is served
/// inside the future go on, after they first waited, on threads of their own, named `palm-function`: one for
/// each core, and at least two, which start when they are first needed.
///
/// # Panics
/// If the future panics, with its panic.
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
