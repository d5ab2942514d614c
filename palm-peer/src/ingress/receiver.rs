//! What the dispatch loop receives: from native connections, and from `ZeroMQ`.

use super::{
    connection_table::{Connection, ConnectionTable},
    inbox::{Inbox, Item},
};
use crate::io::zmq::{self, Frames, RouterEvent};
use futures::FutureExt as _;
use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
};

/// An event of a connection.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message arrived over this connection.
    Message(Connection, Frames),
    /// This connection ended.
    Disconnected(Connection),
}

/// Receives requests.
pub(crate) struct Receiver {
    socket: zmq::Receiver,
    inbox: Arc<Inbox>,
    table: Arc<ConnectionTable>,
    /// Whether it is the turn of a native connection, and not `ZeroMQ`'s.
    native_first: bool,
}

impl Receiver {
    /// Receives the messages of both kinds of connections.
    pub(super) fn new(
        socket: zmq::Receiver,
        inbox: Arc<Inbox>,
        table: Arc<ConnectionTable>,
    ) -> Self {
        Self {
            socket,
            inbox,
            table,
            native_first: true,
        }
    }

    /// Waits for the next event. Of several connections with events, each has its
    /// turn. Cancel-safe.
    pub(crate) async fn recv(&mut self) -> Event {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.native_first = !self.native_first;
        for _ in 0..2 {
            let polled = if self.native_first {
                self.poll_native(cx)
            } else {
                self.poll_inner(cx)
            };
            if polled.is_ready() {
                return polled;
            }
            self.native_first = !self.native_first;
        }
        Poll::Pending
    }

    fn poll_native(&self, cx: &Context<'_>) -> Poll<Event> {
        let (connection, item) = ready!(self.inbox.poll_next(cx));
        Poll::Ready(match item {
            Item::Message(frames, bytes) => {
                self.table.taken(&connection, 1, bytes);
                Event::Message(connection, frames)
            }
            Item::End { .. } => Event::Disconnected(connection),
        })
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let receiving = self.socket.recv();
        futures::pin_mut!(receiving);
        receiving.poll_unpin(cx).map(|event| match event {
            RouterEvent::Message(identity, frames) => {
                let connection = Connection::Inner(identity);
                self.table.taken(&connection, 1, 0);
                Event::Message(connection, frames)
            }
            RouterEvent::Disconnected(identity) => Event::Disconnected(Connection::Inner(identity)),
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Nobody would answer. The connections to ZeroMQ end with its socket.
        self.inbox.close();
        self.table.finish_native();
    }
}
