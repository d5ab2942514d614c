//! For tests of a program's own servers: a throwaway [`Etcd`], and servers that run inside the test.
//! With the feature `testing`, which belongs into `dev-dependencies`:
//! `cargo add --dev palm-peer --features testing`.
//!
//! Functions alone are tested with [`Message::new`](crate::Message::new), and limits, deadlines
//! and panics with [`Server::local`](crate::Server::local): neither needs this module, or etcd.
//!
//! ```
//! use palm_peer::{Client, FunctionError, Message, Server, testing::{Etcd, RunningServer}};
//! use std::{error::Error, time::Duration};
//!
//! async fn shout(message: Message) -> Result<String, FunctionError> {
//!     Ok(std::str::from_utf8(message.payload())?.to_uppercase())
//! }
//!
//! async fn test() -> Result<(), Box<dyn Error + Send + Sync>> {
//!     let etcd = Etcd::start()?;
//!     let text = RunningServer::start(Server::new("text").function("shout", shout), etcd.config()).await?;
//!     let client = Client::connect(etcd.config()).await?;
//!     client.wait_for("text", 1, Duration::from_secs(10)).await?;
//!     assert_eq!(client.call("text.shout", "hello").await?, "HELLO");
//!     text.stop().await?;
//!     Ok(())
//! }
//!
//! palm_peer::block_on(test()).expect("calls reach the server");
//! ```

mod etcd;
mod etcd_flags;
mod free_port;

pub use etcd::Etcd;

use crate::{
    error::{Error, ErrorKind},
    io::{
        executor,
        tasks::Name,
        timer::{self, Elapsed},
    },
    server::{Server, peer::Peer},
};
use futures::{
    FutureExt as _, StreamExt as _,
    channel::oneshot,
    future::{BoxFuture, Either, pending, select},
};
use palm_proto::config::Config;
use std::{pin::pin, sync::Arc, time::Duration};

/// How long a server may take from joining to being reachable.
const REACHABLE_WITHIN: Duration = Duration::from_secs(30);

/// A server that runs inside a test. Dropping it has it leave the mesh, without waiting for that;
/// [`RunningServer::stop`] waits.
#[derive(Debug)]
#[must_use = "a server leaves the mesh when it is dropped"]
pub struct RunningServer {
    peer: Arc<Peer>,
    shutdown: oneshot::Sender<()>,
    ended: oneshot::Receiver<Result<(), Error>>,
}

impl RunningServer {
    /// Joins the mesh, serves in the background, and waits until clients can reach the server: a
    /// client that connects from now on sees it. For a client that was there before, use
    /// [`Client::wait_for`](crate::Client::wait_for).
    ///
    /// The functions run on the library's own executor. Those that need another one, such as
    /// tokio's timers, need [`RunningServer::start_on`].
    ///
    /// # Errors
    /// As [`Server::join`]; [`ErrorKind::TimedOut`] when the server is not reachable within 30 s.
    pub async fn start<S>(server: Server<S>, config: Config) -> Result<Self, Error> {
        Self::start_on(server, config, |serving| {
            executor::spawn(Name::Serving, serving);
        })
        .await
    }

    /// As [`RunningServer::start`], on another executor: `spawn` starts a task for the future that
    /// it is given, for instance with `|serving| { tokio::spawn(serving); }`.
    ///
    /// # Errors
    /// As [`RunningServer::start`].
    pub async fn start_on<S>(
        server: Server<S>,
        config: Config,
        spawn: impl FnOnce(BoxFuture<'static, ()>),
    ) -> Result<Self, Error> {
        let peer = Arc::new(server.join(config).await?);
        let (shutdown, stopped) = oneshot::channel();
        let (tx, mut ended) = oneshot::channel();
        let served = Arc::clone(&peer);
        spawn(
            async move {
                // Nobody may wait for the end.
                let _ = tx.send(served.serve(stopped).await);
            }
            .boxed(),
        );
        let mut states = peer.watch();
        let reachable = async move {
            while let Some(state) = states.next().await {
                if state.configured {
                    return;
                }
            }
            // It has left, and `ended` says why.
            pending::<()>().await;
        };
        let mut reachable = pin!(reachable);
        let waiting = select(&mut reachable, &mut ended);
        match timer::timeout(REACHABLE_WITHIN, waiting).await {
            Ok(Either::Left(_)) => {}
            Ok(Either::Right((ended, _))) => return Err(flatten(ended, &peer)),
            Err(Elapsed) => {
                let text = format!(
                    "no leader could reach server {} at {} within {REACHABLE_WITHIN:?}",
                    peer.uuid(),
                    peer.endpoint()
                );
                return Err(Error::new(ErrorKind::TimedOut, text));
            }
        }
        Ok(Self {
            peer,
            shutdown,
            ended,
        })
    }

    /// Returns the peer.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Has the server leave the mesh gracefully, and waits until it has left.
    ///
    /// # Errors
    /// As [`Peer::serve`].
    pub async fn stop(self) -> Result<(), Error> {
        drop(self.shutdown);
        match self.ended.await {
            Ok(served) => served,
            Err(oneshot::Canceled) => Err(not_served(&self.peer)),
        }
    }
}

/// Returns why a server ended that was not told to.
fn flatten(ended: Result<Result<(), Error>, oneshot::Canceled>, peer: &Peer) -> Error {
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) | Err(oneshot::Canceled) => not_served(peer),
    }
}

fn not_served(peer: &Peer) -> Error {
    let text = format!("the task that served server {} ended", peer.uuid());
    Error::new(ErrorKind::TaskFailed, text)
}
