//! ZeroMQ sockets: the only user of the zeromq crate. What is done here and how follows from what that crate does and does
//! not do; see "Known pitfalls in our dependencies" in ARCHITECTURE.md.

use super::{executor, tasks::Name, timer};
use bytes::Bytes;
use futures::{
    FutureExt as _, Stream, StreamExt as _,
    channel::{mpsc, oneshot},
    future::BoxFuture,
    stream::SelectAll,
};
use std::{
    collections::HashMap,
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use zeromq::{
    RouterRecvHalf, RouterSendHalf, RouterSocket, Socket, SocketEvent, SocketOptions, SocketRecv, SocketSend, ZmqError,
    ZmqMessage, util::PeerIdentity,
};

/// How long a send to a connection whose queue is full may take before the message is given up.
const SLOW_SEND: Duration = Duration::from_secs(5);

/// The frames of a message.
pub(crate) type Frames = Vec<Bytes>;

/// Names a connection to a router. Each connection has a fresh one; it says nothing about who is behind it.
pub(crate) type Connection = Bytes;

/// What a router hears.
#[derive(Debug)]
pub(crate) enum RouterEvent {
    /// A message came in over this connection.
    Message(Connection, Frames),
    /// This connection ended.
    Disconnected(Connection),
}

/// Receives from one socket: one that listens, or one that was attached to a single connection.
struct Incoming {
    socket: RouterRecvHalf,
    monitor: mpsc::Receiver<SocketEvent>,
    /// Whether it is attached to one connection, with which it ends.
    attached: bool,
    ended: bool,
}

/// The senders of the attached connections.
#[derive(Clone, Default)]
struct Senders(Arc<Mutex<HashMap<Connection, RouterSendHalf>>>);

impl Senders {
    fn lock(&self) -> MutexGuard<'_, HashMap<Connection, RouterSendHalf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Attaches connections to a [`Receiver`] and a [`Sender`].
#[derive(Clone)]
pub(crate) struct Attacher {
    incoming: mpsc::UnboundedSender<Incoming>,
    senders: Senders,
}

impl fmt::Debug for Attacher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attacher").finish_non_exhaustive()
    }
}

/// The receiving side of a router.
pub(crate) struct Receiver {
    all: SelectAll<Incoming>,
    /// What is attached from now on.
    incoming: mpsc::UnboundedReceiver<Incoming>,
    senders: Senders,
}

/// The sending side of a router.
#[derive(Clone)]
pub(crate) struct Sender(Outgoing);

#[derive(Clone)]
enum Outgoing {
    /// One socket for all connections.
    #[cfg(any(test, feature = "bench"))]
    Listening(RouterSendHalf),
    /// A socket for each connection.
    Attached(Senders),
}

/// Listens with a listener that is bound already. Fails when the listener cannot be taken over.
#[cfg(any(test, feature = "bench"))]
pub(crate) async fn listen(listener: impl Into<zeromq::Listener> + Send) -> io::Result<(Sender, Receiver)> {
    executor::prepare();
    let mut socket = RouterSocket::new();
    let monitor = socket.monitor();
    socket.bind_listener(listener).await.map_err(io_error)?;
    let (sender, socket) = socket.split();
    let (_, incoming) = mpsc::unbounded();
    let mut all = SelectAll::new();
    all.push(Incoming { socket, monitor, attached: false, ended: false });
    Ok((Sender(Outgoing::Listening(sender)), Receiver { all, incoming, senders: Senders::default() }))
}

/// A router without connections, which are attached to it one by one.
pub(crate) fn attachable() -> (Attacher, Sender, Receiver) {
    executor::prepare();
    let (attach, incoming) = mpsc::unbounded();
    let senders = Senders::default();
    let receiver = Receiver { all: SelectAll::new(), incoming, senders: senders.clone() };
    (Attacher { incoming: attach, senders: senders.clone() }, Sender(Outgoing::Attached(senders)), receiver)
}

fn io_error(error: ZmqError) -> io::Error {
    match error {
        ZmqError::Network(error) => error,
        error => io::Error::other(error.to_string()),
    }
}

impl Attacher {
    /// Connects a socket of its own to `endpoint`, and says there that it is for `connection`, as which the other side must
    /// introduce itself. From then on the receiver hears what comes over it, and in the end that it has ended. Cancel-safe.
    /// Fails when it cannot connect, for instance for want of descriptors, or nobody receives any more.
    pub(crate) async fn attach(&self, endpoint: &str, connection: &Connection) -> io::Result<()> {
        let mut options = SocketOptions::default();
        options.peer_identity(PeerIdentity::try_from(connection.clone()).map_err(io_error)?);
        let mut socket = RouterSocket::with_options(options);
        let monitor = socket.monitor();
        socket.connect(endpoint).await.map_err(io_error)?;
        let (sender, socket) = socket.split();
        self.senders.lock().insert(connection.clone(), sender);
        let incoming = Incoming { socket, monitor, attached: true, ended: false };
        self.incoming.unbounded_send(incoming).map_err(|_| {
            self.senders.lock().remove(connection);
            io::ErrorKind::BrokenPipe.into()
        })
    }
}

/// How many bytes a message of these frames has on the wire.
pub(crate) fn wire_length(frames: &[Bytes]) -> u64 {
    frames.iter().map(|frame| frame.len() as u64 + if frame.len() > 255 { 9 } else { 2 }).sum()
}

impl Stream for Incoming {
    type Item = RouterEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<RouterEvent>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // A router answers garbage by dropping the connection; an error here is of no one message.
        while let Poll::Ready(received) = self.socket.recv().poll_unpin(cx) {
            let mut frames = received.map(ZmqMessage::into_vec).unwrap_or_default();
            if !frames.is_empty() {
                let connection = frames.remove(0);
                return Poll::Ready(Some(RouterEvent::Message(connection, frames)));
            }
        }
        while let Poll::Ready(Some(event)) = self.monitor.poll_next_unpin(cx) {
            if let SocketEvent::Disconnected(connection) = event {
                self.ended = self.attached;
                return Poll::Ready(Some(RouterEvent::Disconnected(connection.into())));
            }
        }
        Poll::Pending
    }
}

impl Receiver {
    /// Waits for what comes next; from each connection in turn, where several have something. Cancel-safe.
    pub(crate) async fn recv(&mut self) -> RouterEvent {
        let event = poll_fn(|cx| {
            while let Poll::Ready(Some(incoming)) = self.incoming.poll_next_unpin(cx) {
                self.all.push(incoming);
            }
            match self.all.poll_next_unpin(cx) {
                Poll::Ready(Some(event)) => Poll::Ready(event),
                // Without a connection, it is one that is attached which wakes.
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            }
        })
        .await;
        if let RouterEvent::Disconnected(connection) = &event {
            self.senders.lock().remove(connection);
        }
        event
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // A connection ends with both halves of its socket. In this order, none is attached behind our back.
        self.incoming.close();
        let senders = std::mem::take(&mut *self.senders.lock());
        drop(senders);
    }
}

impl Sender {
    /// Sends to a connection. Nearly always done on return; if not, the future that is returned says when it is. A connection
    /// that is gone takes the message with it, as it does a moment later.
    pub(crate) fn send(&self, to: &Connection, frames: Frames) -> Option<BoxFuture<'static, ()>> {
        let mut socket = match &self.0 {
            #[cfg(any(test, feature = "bench"))]
            Outgoing::Listening(socket) => socket.clone(),
            Outgoing::Attached(senders) => senders.lock().get(to)?.clone(),
        };
        let mut all = Vec::with_capacity(frames.len() + 1);
        all.push(to.clone());
        all.extend(frames);
        let message = ZmqMessage::try_from(all).ok()?;
        let mut sending = async move { drop(socket.send(message).await) }.boxed();
        if (&mut sending).now_or_never().is_some() {
            return None;
        }
        // The send may own a lock that a receiver waits for without yielding, as a connection ends. So another thread
        // continues it.
        let (tx, done) = oneshot::channel();
        executor::spawn(Name::SlowSend, async move {
            let _ = timer::timeout(SLOW_SEND, sending).await;
            // The sender may have stopped waiting.
            let _ = tx.send(());
        });
        Some(done.map(drop).boxed())
    }
}
