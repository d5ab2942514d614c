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
use std::{io, time::Duration};
pub use zeromq::Listener;
use zeromq::{RouterRecvHalf, RouterSendHalf, RouterSocket, Socket, SocketEvent, SocketRecv, SocketSend, ZmqMessage};

/// How long a send to a connection whose queue is full may take before the message is given up.
const SLOW_SEND: Duration = Duration::from_secs(5);

/// The frames of a message.
pub type Frames = Vec<Bytes>;

/// Names a connection to a router. Each connection has a fresh one; it says nothing about who is behind it.
pub type Connection = Bytes;

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
        let message = ZmqMessage::try_from(all).ok()?;
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
