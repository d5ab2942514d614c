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
    task::{Context, Poll},
};

/// So many messages of a connection are counted together, at most: a part of
/// [its window](palm_proto::limits::flow_control::WINDOW).
const MAX_UNCOUNTED: u64 = 16;

/// Messages of so many bytes are counted at once: others may wait for their permits.
const LONG: u64 = 16 * 1024;

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
    /// What was taken and is not counted yet.
    taken: Option<Taken>,
}

/// Messages in a row of one connection.
struct Taken {
    connection: Connection,
    messages: u64,
    bytes: u64,
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
            taken: None,
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

    fn poll_native(&mut self, cx: &Context<'_>) -> Poll<Event> {
        let Poll::Ready((connection, item)) = self.inbox.poll_next(cx) else {
            self.count();
            return Poll::Pending;
        };
        Poll::Ready(match item {
            Item::Message(frames, bytes) => {
                self.take(&connection, bytes);
                Event::Message(connection, frames)
            }
            Item::End { .. } => Event::Disconnected(connection),
        })
    }

    /// A message of so many bytes was taken.
    fn take(&mut self, connection: &Connection, bytes: u64) {
        match &mut self.taken {
            Some(taken) if taken.connection == *connection => {
                taken.messages += 1;
                taken.bytes += bytes;
            }
            _ => {
                self.count();
                let connection = connection.clone();
                self.taken = Some(Taken {
                    connection,
                    messages: 1,
                    bytes,
                });
            }
        }
        let enough = |taken: &Taken| taken.messages >= MAX_UNCOUNTED || taken.bytes >= LONG;
        if self.taken.as_ref().is_some_and(enough) {
            self.count();
        }
    }

    /// Counts what was taken, so that more may be read.
    fn count(&mut self) {
        if let Some(taken) = self.taken.take() {
            let (messages, bytes) = (taken.messages, taken.bytes);
            self.table.taken(&taken.connection, messages, bytes);
        }
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
