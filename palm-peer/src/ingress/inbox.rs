//! The messages of native connections on their way to the dispatch loop.

use super::{connection::ClientConnection, connection_table::Connection};
use crate::{io::zmq::Frames, sync::lock};
use futures::task::AtomicWaker;
use palm_proto::limits::turn_queue::TurnQueue;
use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

/// What comes over a native connection.
#[derive(Debug)]
pub(super) enum Item {
    /// A message, and how many bytes it counts in [flow control](palm_proto::limits::flow_control).
    Message(Frames, u64),
    /// The connection has ended.
    End {
        /// It counts as open until the loop knows of its end.
        _connection: Arc<ClientConnection>,
    },
}

/// The queue in front of the dispatch loop.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    receiver: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    queue: TurnQueue<Connection, Item>,
    closed: bool,
}

impl Inbox {
    /// Queues items of a connection. Dropped when the loop is gone.
    pub(super) fn push(&self, connection: &Connection, items: impl IntoIterator<Item = Item>) {
        {
            let mut state = lock(&self.state);
            if state.closed {
                return;
            }
            for item in items {
                state.queue.push(connection, item);
            }
        }
        self.receiver.wake();
    }

    /// Takes the next item: the connections take turns. For one task at a time.
    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<(Connection, Item)> {
        if let Some(next) = lock(&self.state).queue.pop() {
            return Poll::Ready(next);
        }
        self.receiver.register(cx.waker());
        // Something may have come before it was registered.
        lock(&self.state)
            .queue
            .pop()
            .map_or(Poll::Pending, Poll::Ready)
    }

    /// Returns whether the loop is gone.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// The loop is gone: everything is dropped.
    pub(super) fn close(&self) {
        let dropped = {
            let mut state = lock(&self.state);
            state.closed = true;
            std::mem::take(&mut state.queue)
        };
        // Not under the lock: the end of a connection wakes tasks.
        drop(dropped);
    }
}
