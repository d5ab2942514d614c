//! ZeroMQ sockets: the only user of the zeromq crate. What is done here and how follows from what that crate does and does
//! not do; see "Traps" in ARCHITECTURE.md.

use super::{runtime, timer};
use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    channel::{mpsc, oneshot},
    future::BoxFuture,
    select_biased,
};
use std::{
    fmt, io,
    sync::{Mutex, PoisonError},
    time::Duration,
};
pub use zeromq::Listener;
use zeromq::{
    DealerRecvHalf, DealerSendHalf, DealerSocket, RouterRecvHalf, RouterSendHalf, RouterSocket, Socket, SocketEvent,
    SocketRecv, SocketSend, ZmqError, ZmqMessage,
};

/// How long a send to a connection whose queue is full may take before the message is given up.
const SLOW_SEND: Duration = Duration::from_secs(5);

/// The frames of a message.
pub type Frames = Vec<Bytes>;

/// Names a connection to a router. Each connection has a fresh one; it says nothing about who is behind it.
pub type Connection = Bytes;

/// What ZeroMQ says went wrong.
#[derive(Debug)]
pub struct SocketError(String);

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SocketError {}

impl From<ZmqError> for SocketError {
    fn from(error: ZmqError) -> Self {
        Self(error.to_string())
    }
}

fn message(frames: Frames) -> Result<ZmqMessage, SocketError> {
    ZmqMessage::try_from(frames).map_err(|_| SocketError("a message without frames".into()))
}

/// What a router hears.
#[derive(Debug)]
pub enum Heard {
    /// A message came in over this connection.
    Message(Connection, Frames),
    /// This connection ended.
    Disconnected(Connection),
}

/// The receiving side of a listening socket.
pub struct Receiver {
    socket: RouterRecvHalf,
    monitor: mpsc::Receiver<SocketEvent>,
}

/// The sending side of a listening socket.
#[derive(Clone)]
pub struct Sender {
    socket: RouterSendHalf,
}

/// Listens with a listener that is bound already.
///
/// # Errors
/// When the listener cannot be taken over.
pub async fn listen(listener: impl Into<Listener> + Send) -> io::Result<(Sender, Receiver)> {
    runtime::prepare();
    let mut socket = RouterSocket::new();
    let monitor = socket.monitor();
    socket.bind_listener(listener).await.map_err(|e| io::Error::other(e.to_string()))?;
    let (sender, receiver) = socket.split();
    Ok((Sender { socket: sender }, Receiver { socket: receiver, monitor }))
}

/// How many bytes a message of these frames has on the wire.
#[must_use]
pub fn wire_length(frames: &[Bytes]) -> u64 {
    frames.iter().map(|frame| frame.len() as u64 + if frame.len() > 255 { 9 } else { 2 }).sum()
}

impl Receiver {
    /// Waits for what comes next. Cancel-safe.
    pub async fn hear(&mut self) -> Heard {
        loop {
            select_biased! {
                received = self.socket.recv().fuse() => {
                    // A router answers garbage by dropping the connection; an error here is of no one message.
                    if let Ok(message) = received {
                        let mut frames = message.into_vec();
                        if !frames.is_empty() {
                            let connection = frames.remove(0);
                            return Heard::Message(connection, frames);
                        }
                    }
                }
                event = self.monitor.next() => {
                    if let Some(SocketEvent::Disconnected(connection)) = event {
                        return Heard::Disconnected(connection.into());
                    }
                }
            }
        }
    }
}

impl Sender {
    /// Sends to a connection. Nearly always done on return; if not, the future that is returned says when it is. A connection
    /// that is gone takes the message with it, as it does a moment later.
    #[must_use]
    pub fn send(&self, to: &Connection, frames: Frames) -> Option<BoxFuture<'static, ()>> {
        let mut all = Vec::with_capacity(frames.len() + 1);
        all.push(to.clone());
        all.extend(frames);
        let message = message(all).ok()?;
        let mut socket = self.socket.clone();
        let mut sending = async move { drop(socket.send(message).await) }.boxed();
        if (&mut sending).now_or_never().is_some() {
            return None;
        }
        // It may come to own a lock that whoever receives waits for without giving way, as a connection ends. So another
        // thread goes on with it.
        let (tell, done) = oneshot::channel();
        runtime::spawn(async move {
            let _ = timer::timeout(SLOW_SEND, sending).await;
            // Whoever sent may have stopped waiting.
            let _ = tell.send(());
        });
        Some(done.map(drop).boxed())
    }
}

/// The sending side of a connection to a listening socket.
pub struct DealerSender {
    socket: Mutex<DealerSendHalf>,
}

/// The receiving side of a connection to a listening socket.
pub struct DealerReceiver {
    socket: DealerRecvHalf,
    monitor: mpsc::Receiver<SocketEvent>,
}

/// Connects to `endpoint` (`tcp://host:port`). Not bounded in time: while the connection is refused, the crate retries.
///
/// # Errors
/// When the endpoint is none, its host is unknown, or the other end does not speak ZeroMQ.
pub async fn connect(endpoint: &str) -> Result<(DealerSender, DealerReceiver), SocketError> {
    runtime::prepare();
    let mut socket = DealerSocket::new();
    let monitor = socket.monitor();
    socket.connect(endpoint).await?;
    let (sender, receiver) = socket.split();
    Ok((DealerSender { socket: Mutex::new(sender) }, DealerReceiver { socket: receiver, monitor }))
}

impl DealerSender {
    /// Hands a message to the connection's queue, at once.
    ///
    /// # Errors
    /// When the connection is gone, or its queue of 100,000 messages is full, which a window far below that rules out.
    pub fn send(&self, frames: Frames) -> Result<(), SocketError> {
        let message = message(frames)?;
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = socket.send(message).now_or_never();
        sent.unwrap_or(Err(ZmqError::Other("the connection's queue is full"))).map_err(SocketError::from)
    }
}

impl DealerReceiver {
    /// Waits for the next message; `None` when the connection is gone, or no good any more: after garbage the crate gives
    /// the same error for ever. Cancel-safe.
    pub async fn receive(&mut self) -> Option<Frames> {
        loop {
            select_biased! {
                received = self.socket.recv().fuse() => return received.ok().map(ZmqMessage::into_vec),
                event = self.monitor.next() => match event {
                    Some(SocketEvent::Disconnected(_)) | None => return None,
                    Some(_) => {}
                },
            }
        }
    }
}
