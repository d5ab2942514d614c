//! Servers and clients in the test's own process, and raw ZeroMQ clients of them.

// Each test program uses a part of it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::{
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use futures::{channel::oneshot, executor::block_on};
use palm_peer::{CallError, Client, Config, Error, FunctionError, Message, Peer, Server};
use palm_tests::{Etcd, eventually};
use serde_json::Value;
use std::sync::Arc;
use zeromq::{DealerSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

/// The timeout of all waits: longer than anything here takes on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The frames of a message.
pub(crate) type Frames = Vec<Bytes>;

/// The defaults, or what the environment says, for a mesh in this etcd.
pub(crate) fn settings(etcd: &Etcd) -> Config {
    Config::from_env()
        .expect("an environment that fits")
        .etcd(vec![etcd.endpoint()])
}

/// A function by which tests check that a server works.
pub(crate) async fn echo(message: Message) -> Result<Bytes, FunctionError> {
    Ok(message.into_payload())
}

/// A server that is served on a thread. It leaves the mesh when it is dropped.
pub(crate) struct InProcess {
    /// The server itself.
    pub peer: Arc<Peer>,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl InProcess {
    /// Joins, serves, and waits until a leader has configured it.
    pub(crate) fn start(server: Server, settings: Config) -> Self {
        let options = settings;
        let inside = Self::serve(block_on(server.join(options)).expect("the server joins"));
        eventually("the server is configured", SOON, || {
            inside.peer.state().configured.then_some(())
        });
        inside
    }

    /// Serves a joined peer.
    pub(crate) fn serve(peer: Peer) -> Self {
        let peer = Arc::new(peer);
        let (shutdown, stopped) = oneshot::channel();
        let served = Arc::clone(&peer);
        let thread = thread::spawn(move || block_on(served.serve(stopped)));
        Self {
            peer,
            shutdown: Some(shutdown),
            thread: Some(thread),
        }
    }

    /// Tells it to leave, without waiting.
    pub(crate) fn leave(&mut self) {
        drop(self.shutdown.take());
    }

    /// Waits until it has left (tell it first). Returns the result of serving.
    pub(crate) fn ended(mut self) -> Result<(), Error> {
        let thread = self.thread.take().expect("served once");
        eventually("the server has ended", SOON, || {
            thread.is_finished().then_some(())
        });
        thread.join().expect("serving does not panic")
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.leave();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Returns a client that sees this many instances of `server`.
pub(crate) fn client(settings: Config, server: &str, instances: usize) -> Client {
    let options = settings;
    let client = block_on(Client::connect(options)).expect("the client connects");
    sees(&client, server, instances);
    client
}

/// Waits until the client sees this many instances of `server`.
pub(crate) fn sees(client: &Client, server: &str, instances: usize) {
    eventually("the client sees what is published", SOON, || {
        let found = client
            .reachable()
            .into_iter()
            .find(|reachable| reachable.server == server);
        (found.map_or(0, |reachable| reachable.instances) == instances).then_some(())
    });
}

/// Calls, and waits for the answer.
pub(crate) fn call(
    client: &Client,
    target: &str,
    payload: impl Into<Bytes>,
) -> Result<Bytes, CallError> {
    block_on(async { client.call(target, payload).timeout(SOON).await })
}

/// A raw ZeroMQ client that only uses PALM's protocol.
pub(crate) struct Stranger(DealerSocket);

impl Stranger {
    /// Connects to a server.
    pub(crate) fn at(endpoint: &str) -> Self {
        let mut socket = DealerSocket::new();
        block_on(socket.connect(endpoint)).expect("somebody listens there");
        Self(socket)
    }

    /// Sends frames.
    pub(crate) fn say(&mut self, frames: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        let frames: Frames = frames
            .into_iter()
            .map(|frame| Bytes::copy_from_slice(frame.as_ref()))
            .collect();
        let message = ZmqMessage::try_from(frames).expect("at least one frame");
        block_on(self.0.send(message)).expect("the connection stands");
    }

    /// Waits for the next message.
    pub(crate) fn recv(&mut self) -> Frames {
        let heard = block_on(async_std::future::timeout(SOON, self.0.recv()));
        heard
            .expect("an answer in time")
            .expect("the connection stands")
            .into_vec()
    }

    /// Waits for the next answer: its header, and the payload.
    pub(crate) fn answer(&mut self) -> (Value, Bytes) {
        let frames = self.recv();
        assert_eq!(frames.len(), 2, "an answer has two frames: {frames:?}");
        let header = serde_json::from_slice(&frames[0]).expect("the header of an answer is JSON");
        (header, frames[1].clone())
    }

    /// Sends frames and waits for the answer.
    pub(crate) fn ask(
        &mut self,
        frames: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> (Value, Bytes) {
        self.say(frames);
        self.answer()
    }
}
