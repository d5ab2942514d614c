//! A client in the simulation of flow control, and its connection.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How a client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    AtOnce,
    /// After at most so long.
    Within(Duration),
    Never,
}

/// What the task that reads a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Running,
    /// More from the client.
    Input,
    Room,
    Permit,
}

#[derive(Debug)]
pub(super) struct Client {
    /// Whether the ingress knows the bytes of its messages.
    pub(super) native: bool,
    pub(super) reading: Reading,
    /// The sizes of the messages that it has still to send.
    pub(super) to_send: VecDeque<u64>,
    pub(super) response: u64,
    /// What its system has sent and the server has not read.
    pub(super) arrived: VecDeque<u64>,
    pub(super) task: Task,
    /// The long frame that comes next has its permit.
    pub(super) permitted: bool,
    pub(super) passed: u64,
    /// Messages that the dispatch loop has not taken.
    pub(super) queued: VecDeque<u64>,
    /// When which functions end.
    pub(super) running: Vec<Instant>,
    /// The responses that it has not read, and when it read last.
    pub(super) responses: VecDeque<u64>,
    pub(super) unread: u64,
    pub(super) read_messages: u64,
    pub(super) last_read: Instant,
    pub(super) disconnected: bool,
}

impl Client {
    pub(super) fn new(
        native: bool,
        reading: Reading,
        to_send: VecDeque<u64>,
        response: u64,
        now: Instant,
    ) -> Self {
        Self {
            native,
            reading,
            to_send,
            response,
            arrived: VecDeque::new(),
            task: Task::Input,
            permitted: false,
            passed: 0,
            queued: VecDeque::new(),
            running: Vec::new(),
            responses: VecDeque::new(),
            unread: 0,
            read_messages: 0,
            last_read: now,
            disconnected: false,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.to_send.is_empty()
            && self.arrived.is_empty()
            && self.queued.is_empty()
            && self.running.is_empty()
            && self.responses.is_empty()
    }
}
