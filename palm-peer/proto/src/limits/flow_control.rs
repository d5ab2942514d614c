//! Flow control: how much may be read from each client, and which clients are disconnected because
//! they do not read.
//!
//! [`FlowControl`] counts, for each connection, the messages that were passed in and those that the
//! dispatch loop has taken, and the bytes of responses that were sent and those that the client's
//! system has accepted. Events go in; what comes out says which connections to read from again
//! ([`Wake`]), and which to disconnect. The caller wakes tasks and closes sockets.
//!
//! Memory is bounded: at most [`WINDOW`] messages of a connection (and [`WINDOW_BYTES`] of a native
//! one, whose messages the ingress decodes and whose bytes it therefore knows) are between the
//! ingress and the dispatch loop, long frames of all connections share one limit, nothing is read
//! from a connection for which [`PAUSE_AT`] bytes wait, and the bytes that wait for all connections
//! have one limit as well.

#[cfg(test)]
mod tests;

use super::byte_semaphore::ByteSemaphore;
use crate::zmtp::RejectReason;
use foldhash::{HashMap, HashMapExt as _};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How many messages of one connection may be between the ingress and the dispatch loop.
pub const WINDOW: u64 = 64;

/// How many bytes of messages of one native connection may be there, but for the last message: few,
/// so that a message is still in the processor's cache when the loop takes it.
pub const WINDOW_BYTES: u64 = 64 * 1024;

/// How many bytes of responses may wait for a connection before no more is read from it.
pub const PAUSE_AT: u64 = 4 * 1024 * 1024;

/// A connection that has accepted nothing for this long, though bytes wait for it, is among the
/// first to be disconnected when the total backlog is full.
pub const IDLE: Duration = Duration::from_secs(1);

/// How many messages may wait for a connection: half of `ZeroMQ`'s queue; when that is full, it
/// waits while holding a lock.
pub const MAX_MESSAGES: u64 = 50_000;

/// Which connections may be read from again.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "a connection that is not woken may wait for ever"]
pub struct Wake {
    /// Those with these numbers; some may occur twice.
    pub some: [Option<u64>; 2],
    /// All of them.
    pub all: bool,
}

/// How much may be read from a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// This many messages, at least one.
    Messages(u64),
    /// Nothing, until a [`Wake`] names the connection. `for_itself`: because it does not
    /// read its responses.
    Paused {
        /// Whether it is the connection's own fault.
        for_itself: bool,
    },
    /// Nothing any more: the connection must end.
    Ended,
}

/// The fate of a response.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "connections that are not disconnected go on holding memory"]
pub struct Sent {
    /// Whether it may be sent; if not, it is dropped.
    pub accepted: bool,
    /// The connections to disconnect, because they do not read.
    pub disconnect: Vec<u64>,
}

/// The flow control of all connections, each of which has a unique number.
#[derive(Debug)]
pub struct FlowControl {
    /// How many bytes may wait for each connection.
    max_unread: u64,
    /// How many bytes may wait for all of them.
    max_total: u64,
    connections: HashMap<u64, Connection>,
    /// How many bytes wait for all of them.
    unread: u64,
    permits: ByteSemaphore,
}

#[derive(Debug)]
struct Connection {
    /// The permitted long frames, each with the number of its message, until the dispatch loop has
    /// taken that message.
    long_frames: VecDeque<(u64, u64)>,
    /// When the client last accepted bytes, or had accepted all of them.
    moved: Instant,
    /// Messages that the ingress passed in, and those that the dispatch loop has taken.
    passed: u64,
    taken: u64,
    /// Bytes of messages that the ingress passed in and the dispatch loop has not taken,
    /// where they are known.
    queued: u64,
    /// Bytes of responses that wait for the client.
    unread: u64,
    /// Responses that were sent, and those that the client's kernel accepted.
    sent_messages: u64,
    written_messages: u64,
    /// Whether it was told to pause, and waits for a [`Wake`].
    waits: bool,
    end: Option<End>,
}

/// The connection must end, for this reason if the server ends it.
#[derive(Debug, Clone, Copy)]
struct End(Option<RejectReason>);

impl Connection {
    fn end(&mut self, reason: Option<RejectReason>) -> bool {
        let first = self.end.is_none();
        self.end.get_or_insert(End(reason));
        first
    }

    fn is_open(&self) -> bool {
        self.end.is_none()
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.unread > 0 && now.saturating_duration_since(self.moved) >= IDLE
    }
}

impl FlowControl {
    /// Creates it without connections; `max_unread` bytes may wait for each, and `max_total` for
    /// all. Long frames being received have the same limit.
    #[must_use]
    pub fn new(max_unread: u64, max_total: u64) -> Self {
        let permits = ByteSemaphore::new(max_total);
        Self {
            max_unread,
            max_total,
            connections: HashMap::new(),
            unread: 0,
            permits,
        }
    }

    /// Adds a connection, with a unique number.
    pub fn open(&mut self, id: u64, now: Instant) {
        let connection = Connection {
            long_frames: VecDeque::new(),
            moved: now,
            passed: 0,
            taken: 0,
            queued: 0,
            unread: 0,
            sent_messages: 0,
            written_messages: 0,
            waits: false,
            end: None,
        };
        self.connections.insert(id, connection);
    }

    /// Removes a connection. Returns why, if the server ended it.
    pub fn close(&mut self, id: u64) -> (Option<RejectReason>, Wake) {
        let Some(connection) = self.connections.remove(&id) else {
            return (None, Wake::default());
        };
        let all = self.release(connection.unread);
        self.permits.leave(id);
        self.permits
            .give_back(connection.long_frames.iter().map(|(_, bytes)| bytes).sum());
        let reason = connection.end.and_then(|end| end.0);
        (
            reason,
            Wake {
                some: [None, self.permits.next()],
                all,
            },
        )
    }

    /// Returns how much may be read from a connection now. If it must pause, a [`Wake`] names it
    /// when it must ask again.
    pub fn room(&mut self, id: u64) -> Room {
        let room = self.current_room(id);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.waits = matches!(room, Room::Paused { .. });
        }
        room
    }

    /// Returns how many bytes are held of long messages on their way in, and of responses that are
    /// not read yet.
    #[must_use]
    pub fn held(&self) -> (u64, u64) {
        (self.permits.held(), self.unread)
    }

    /// Returns whether a connection must end.
    #[must_use]
    pub fn is_ended(&self, id: u64) -> bool {
        self.connections
            .get(&id)
            .is_none_or(|connection| !connection.is_open())
    }

    fn current_room(&self, id: u64) -> Room {
        let Some(connection) = self
            .connections
            .get(&id)
            .filter(|connection| connection.is_open())
        else {
            return Room::Ended;
        };
        let for_itself = connection.unread >= PAUSE_AT;
        let room = WINDOW.saturating_sub(connection.passed.saturating_sub(connection.taken));
        let is_full = room == 0 || connection.queued >= WINDOW_BYTES;
        if for_itself || is_full || self.is_too_much(self.unread) {
            return Room::Paused { for_itself };
        }
        Room::Messages(room)
    }

    /// Returns a connection if it waits and may go on.
    fn may_go_on(&self, id: u64) -> Option<u64> {
        let waits = self
            .connections
            .get(&id)
            .is_some_and(|connection| connection.waits);
        (waits && !matches!(self.current_room(id), Room::Paused { .. })).then_some(id)
    }

    /// Sets how many messages of a connection have been passed in so far.
    pub fn passed(&mut self, id: u64, messages: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.passed = messages;
        }
    }

    /// This many bytes of the messages that were [passed](Self::passed) are known.
    pub fn queued(&mut self, id: u64, bytes: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.queued += bytes;
        }
    }

    /// Requests a permit for a long frame of the message that follows those passed. Returns `None`
    /// if it must wait: a [`Wake`] names the connection when it must ask again. The permit lasts
    /// until the dispatch loop has taken the message.
    pub fn ask_permit(&mut self, id: u64, bytes: u64, messages: u64) -> Option<Wake> {
        let connection = self.connections.get_mut(&id)?;
        if !self.permits.ask(id, bytes) {
            return None;
        }
        connection.long_frames.push_back((messages + 1, bytes));
        Some(Wake {
            some: [None, self.permits.next()],
            all: false,
        })
    }

    /// Whether a long frame waits for a permit.
    #[must_use]
    pub fn are_permits_awaited(&self) -> bool {
        self.permits.are_awaited()
    }

    /// The dispatch loop took this many messages of a connection, of which this many bytes were
    /// [queued](Self::queued).
    pub fn taken(&mut self, id: u64, messages: u64, bytes: u64) -> Wake {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Wake::default();
        };
        connection.taken += messages;
        connection.queued = connection.queued.saturating_sub(bytes);
        let (taken, mut bytes) = (connection.taken, 0);
        while let Some((_, long)) = connection
            .long_frames
            .front()
            .filter(|(message, _)| *message <= taken)
        {
            bytes += long;
            connection.long_frames.pop_front();
        }
        let next = if bytes > 0 {
            self.permits.give_back(bytes);
            self.permits.next()
        } else {
            None
        };
        Wake {
            some: [self.may_go_on(id), next],
            all: false,
        }
    }

    /// The dispatch loop is about to send a response of this many bytes. Returns its fate.
    pub fn send(&mut self, id: u64, bytes: u64, now: Instant) -> Sent {
        let rejected = |disconnect| Sent {
            accepted: false,
            disconnect,
        };
        let Some(connection) = self
            .connections
            .get_mut(&id)
            .filter(|connection| connection.is_open())
        else {
            return rejected(Vec::new());
        };
        let unread_messages = connection
            .sent_messages
            .saturating_sub(connection.written_messages);
        if connection.unread >= self.max_unread || unread_messages >= MAX_MESSAGES {
            connection.end(Some(RejectReason::Unread));
            return rejected(vec![id]);
        }
        if connection.unread == 0 {
            connection.moved = now;
        }
        connection.unread += bytes;
        connection.sent_messages += 1;
        self.unread += bytes;
        let disconnect = if self.is_too_much(self.unread) {
            self.disconnect_worst(now)
        } else {
            Vec::new()
        };
        Sent {
            accepted: !disconnect.contains(&id),
            disconnect,
        }
    }

    /// Ends connections until the backlog of the others is within the limit: first those that
    /// accept nothing, the one with the largest backlog first; then the others. Their backlog is
    /// freed in a moment, and until then nothing is read from any connection.
    fn disconnect_worst(&mut self, now: Instant) -> Vec<u64> {
        let mut open: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_open())
            .collect();
        open.sort_by_key(|(_, connection)| (connection.is_idle(now), connection.unread));
        let mut unread: u64 = open.iter().map(|(_, connection)| connection.unread).sum();
        let mut worst = Vec::new();
        while self.is_too_much(unread)
            && let Some((id, connection)) = open.pop()
        {
            unread -= connection.unread;
            worst.push(*id);
        }
        for id in &worst {
            self.end(*id, Some(RejectReason::Unread));
        }
        worst
    }

    /// The client's kernel accepted this many further bytes, and this many messages in total;
    /// `u64::MAX` where no queue of messages must be kept from filling.
    pub fn written(&mut self, id: u64, bytes: u64, messages: u64, now: Instant) -> Wake {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Wake::default();
        };
        connection.moved = now;
        let bytes = bytes.min(connection.unread);
        connection.unread -= bytes;
        connection.written_messages = messages;
        let all = self.release(bytes);
        Wake {
            some: [self.may_go_on(id), None],
            all,
        }
    }

    /// Marks a connection to end, with an optional reason. The first reason counts. Returns whether
    /// this is the first.
    pub fn end(&mut self, id: u64, reason: Option<RejectReason>) -> bool {
        self.connections
            .get_mut(&id)
            .is_some_and(|connection| connection.end(reason))
    }

    /// Returns whether all responses were accepted by the clients' kernels, except those to
    /// connections that must end.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        !self
            .connections
            .values()
            .any(|connection| connection.unread > 0 && connection.is_open())
    }

    /// Returns whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Releases bytes. Returns whether the backlog was over the limit and is not any more.
    fn release(&mut self, bytes: u64) -> bool {
        let before = self.unread;
        self.unread -= bytes;
        self.is_too_much(before) && !self.is_too_much(self.unread)
    }

    fn is_too_much(&self, unread: u64) -> bool {
        unread > self.max_total
    }
}
