//! ZeroMQ sockets: the only user of the zeromq crate. The design works around pitfalls of that
//! crate: see "Known pitfalls in our dependencies" in ARCHITECTURE.md.

mod in_process;

pub(crate) use in_process::InProcess;

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
    RouterRecvHalf, RouterSendHalf, RouterSocket, Socket, SocketEvent, SocketOptions, SocketRecv,
    SocketSend, ZmqError, ZmqMessage, util::PeerIdentity,
};

/// How long a send to a connection with a full queue may take before the message is dropped.
const SLOW_SEND: Duration = Duration::from_secs(5);

/// The frames of a message.
pub(crate) type Frames = Vec<Bytes>;

/// Identifies a connection to a router. Each connection has a new one, which says
/// nothing about the peer.
pub(crate) type Connection = Bytes;

/// An event of a router.
#[derive(Debug)]
pub(crate) enum RouterEvent {
    /// A message arrived over this connection.
    Message(Connection, Frames),
    /// This connection ended.
    Disconnected(Connection),
}

/// Receives from one socket: a listening one, or one attached to a single connection.
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
    /// The newly attached sockets.
    incoming: mpsc::UnboundedReceiver<Incoming>,
    senders: Senders,
    /// What comes from within the process, if anything can.
    in_process: Option<mpsc::UnboundedReceiver<RouterEvent>>,
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
    /// No sockets.
    InProcess(in_process::Replies),
}

/// Creates a router on a bound listener.
#[cfg(any(test, feature = "bench"))]
pub(crate) async fn listen(
    listener: impl Into<zeromq::Listener> + Send,
) -> io::Result<(Sender, Receiver)> {
    executor::prepare();
    let mut socket = RouterSocket::new();
    let monitor = socket.monitor();
    socket.bind_listener(listener).await.map_err(io_error)?;
    let (sender, socket) = socket.split();
    let (_, incoming) = mpsc::unbounded();
    let mut all = SelectAll::new();
    all.push(Incoming {
        socket,
        monitor,
        attached: false,
        ended: false,
    });
    Ok((
        Sender(Outgoing::Listening(sender)),
        Receiver {
            all,
            incoming,
            senders: Senders::default(),
            in_process: None,
        },
    ))
}

/// Creates a router without connections, which are attached to it one by one.
pub(crate) fn attachable() -> (Attacher, Sender, Receiver) {
    executor::prepare();
    let (attach, incoming) = mpsc::unbounded();
    let senders = Senders::default();
    let receiver = Receiver {
        all: SelectAll::new(),
        incoming,
        senders: senders.clone(),
        in_process: None,
    };
    (
        Attacher {
            incoming: attach,
            senders: senders.clone(),
        },
        Sender(Outgoing::Attached(senders)),
        receiver,
    )
}

/// Creates a router without sockets, and what sends it requests from within the process.
pub(crate) fn in_process() -> (InProcess, Sender, Receiver) {
    let (attacher, _, mut receiver) = attachable();
    drop(attacher);
    let (requests, in_process) = mpsc::unbounded();
    receiver.in_process = Some(in_process);
    let requests = InProcess::new(requests);
    let sender = Sender(Outgoing::InProcess(requests.replies()));
    (requests, sender, receiver)
}

fn io_error(error: ZmqError) -> io::Error {
    match error {
        ZmqError::Network(error) => error,
        error => io::Error::other(error.to_string()),
    }
}

impl Attacher {
    /// Connects a new socket to `endpoint` for `connection`, which the peer must use as its
    /// identity. From then on the receiver gets its messages, and its end. Cancel-safe. Fails when
    /// it cannot connect, for instance without descriptors, or the receiver is gone.
    pub(crate) async fn attach(&self, endpoint: &str, connection: &Connection) -> io::Result<()> {
        let mut options = SocketOptions::default();
        options.peer_identity(PeerIdentity::try_from(connection.clone()).map_err(io_error)?);
        let mut socket = RouterSocket::with_options(options);
        let monitor = socket.monitor();
        socket.connect(endpoint).await.map_err(io_error)?;
        let (sender, socket) = socket.split();
        self.senders.lock().insert(connection.clone(), sender);
        let incoming = Incoming {
            socket,
            monitor,
            attached: true,
            ended: false,
        };
        self.incoming.unbounded_send(incoming).map_err(|_| {
            self.senders.lock().remove(connection);
            io::ErrorKind::BrokenPipe.into()
        })
    }
}

/// Returns how many bytes a message of these frames has on the wire.
pub(crate) fn wire_length(frames: &[Bytes]) -> u64 {
    frames.iter().map(|frame| frame_length(frame)).sum()
}

/// Returns how many bytes a frame has on the wire.
pub(crate) fn frame_length(frame: &[u8]) -> u64 {
    frame.len() as u64 + if frame.len() > 255 { 9 } else { 2 }
}

impl Stream for Incoming {
    type Item = RouterEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<RouterEvent>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // A router drops connections with garbage; an error here does not belong to a message.
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
    /// Waits for the next event; of several connections with events, each has its
    /// turn. Cancel-safe.
    pub(crate) async fn recv(&mut self) -> RouterEvent {
        let event = poll_fn(|cx| {
            while let Poll::Ready(Some(incoming)) = self.incoming.poll_next_unpin(cx) {
                self.all.push(incoming);
            }
            if let Some(requests) = &mut self.in_process
                && let Poll::Ready(Some(request)) = requests.poll_next_unpin(cx)
            {
                return Poll::Ready(request);
            }
            match self.all.poll_next_unpin(cx) {
                Poll::Ready(Some(event)) => Poll::Ready(event),
                // Without connections, a newly attached one wakes this task.
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
        // A connection ends with both halves of its socket. In this order, none can be
        // attached in between.
        self.incoming.close();
        let senders = std::mem::take(&mut *self.senders.lock());
        drop(senders);
    }
}

impl Sender {
    /// Sends to a connection. Nearly always done on return; otherwise the returned future finishes
    /// it. A message to a connection that is gone is dropped.
    pub(crate) fn send(&self, to: &Connection, frames: Frames) -> Option<BoxFuture<'static, ()>> {
        let mut socket = match &self.0 {
            #[cfg(any(test, feature = "bench"))]
            Outgoing::Listening(socket) => socket.clone(),
            Outgoing::Attached(senders) => senders.lock().get(to)?.clone(),
            Outgoing::InProcess(replies) => {
                replies.deliver(to, frames);
                return None;
            }
        };
        let mut all = Vec::with_capacity(frames.len() + 1);
        all.push(to.clone());
        all.extend(frames);
        let message = ZmqMessage::try_from(all).ok()?;
        let mut sending = async move { drop(socket.send(message).await) }.boxed();
        if (&mut sending).now_or_never().is_some() {
            return None;
        }
        // The send may hold a lock that a receiver blocks on when a connection ends. So another
        // thread continues it.
        let (tx, done) = oneshot::channel();
        executor::spawn(Name::SlowSend, async move {
            let _ = timer::timeout(SLOW_SEND, sending).await;
            // The sender may have stopped waiting.
            let _ = tx.send(());
        });
        Some(done.map(drop).boxed())
    }
}
