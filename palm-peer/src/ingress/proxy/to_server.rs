//! The direction from the client to the server: scans the bytes, and passes them on
//! while there is room.

use super::{Alarm, ConnectionEnd, WriteBuffer, poll_read_behind};
use crate::ingress::{connection::ClientConnection, connection_table::ConnectionTable};
use palm_proto::{
    limits::{flow_control::Room, slow_client::SlowSender},
    zmtp::frames::{Limits, Scanner, Step},
};
use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

/// Frames of this many bytes or more need a permit.
const LONG: u64 = 16 * 1024;

/// The longest incomplete header or command.
const LONGEST_PIECE: usize = 64;

/// The direction from the client to the server.
#[derive(Debug)]
pub(crate) struct ToServer {
    connection: Arc<ClientConnection>,
    table: Arc<ConnectionTable>,
    scanner: Scanner,
    /// The long frame that follows, and waits for its permit.
    waiting: Option<u64>,
    /// The bytes that were read and not scanned.
    kept: Vec<u8>,
    /// Whether these cannot be scanned before more bytes arrive.
    starved: bool,
    pending: WriteBuffer,
    progress: SlowSender,
    silence_alarm: Alarm,
    rate_alarm: Alarm,
}

impl ToServer {
    /// Begins after the handshake; `kept` are the bytes that were read beyond it.
    pub(crate) fn new(
        connection: Arc<ClientConnection>,
        table: Arc<ConnectionTable>,
        limits: Limits,
        kept: Vec<u8>,
    ) -> Self {
        Self {
            connection,
            table,
            scanner: Scanner::new(limits).asking_from(LONG),
            waiting: None,
            kept,
            starved: false,
            pending: WriteBuffer::default(),
            progress: SlowSender::default(),
            silence_alarm: Alarm::default(),
            rate_alarm: Alarm::default(),
        }
    }

    /// Runs until the connection ends.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Infallible, ConnectionEnd>> {
        let connection = Arc::clone(&self.connection);
        loop {
            ready!(self.pending.poll_flush(cx, &connection.inner))?;
            connection.state.register_to_server(cx);
            match self.table.room(&connection.state) {
                Room::Ended => return Poll::Ready(Err(ConnectionEnd::Closed)),
                Room::Paused { for_itself } => {
                    self.progress.paused(for_itself);
                    if for_itself {
                        self.poll_rate(cx)?;
                    }
                    return Poll::Pending;
                }
                Room::Messages(_) => self.poll_rate(cx)?,
            }
            if let Some(bytes) = self.waiting {
                self.progress.progress();
                ready!(
                    self.table
                        .poll_permit(&connection.state, bytes, self.scanner.messages())
                );
                self.waiting = None;
                self.scanner.permit();
            }
            if self.starved || self.kept.is_empty() {
                ready!(self.poll_read(cx, &connection))?;
            } else {
                let kept = std::mem::take(&mut self.kept);
                self.scan(cx, &connection, &kept)?;
            }
        }
    }

    /// Ends the connection when it holds a permit that others wait for, and sends too slowly.
    fn poll_rate(&mut self, cx: &mut Context<'_>) -> Result<(), ConnectionEnd> {
        let left = self.scanner.long_left();
        let mut next = || {
            self.progress
                .check_rate(left, Instant::now(), || self.table.are_permits_awaited())
        };
        while self.rate_alarm.poll(cx, next()?).is_ready() {}
        Ok(())
    }

    /// Reads behind the kept bytes, and scans both.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        connection: &ClientConnection,
    ) -> Poll<Result<(), ConnectionEnd>> {
        let kept = std::mem::take(&mut self.kept);
        let read = poll_read_behind(
            cx,
            &connection.client_stream,
            &kept,
            self.scanner.left(),
            |cx, bytes| {
                self.progress.progress();
                self.scan(cx, connection, bytes)
            },
        );
        if read.is_pending() {
            self.kept = kept;
            let within_message = self.scanner.within_message();
            while self
                .silence_alarm
                .poll(cx, self.progress.waiting(within_message, Instant::now())?)
                .is_ready()
            {}
        }
        read
    }

    /// Passes on as many of `bytes` as are permitted, and keeps the rest.
    fn scan(
        &mut self,
        cx: &mut Context<'_>,
        connection: &ClientConnection,
        mut bytes: &[u8],
    ) -> Result<(), ConnectionEnd> {
        self.starved = false;
        while !bytes.is_empty() {
            let Room::Messages(room) = self.table.room(&connection.state) else {
                break;
            };
            let done = match self.scanner.step(bytes, room)? {
                Step::Pass(count) => {
                    // Counted first, so that the dispatch loop cannot take a message
                    // before it was counted.
                    self.table
                        .passed(&connection.state, self.scanner.messages());
                    self.pending.write(cx, &connection.inner, &bytes[..count])?;
                    count
                }
                Step::Ping(count, ping) => {
                    self.progress.announced(ping.silence);
                    connection.state.pong(ping.pong);
                    count
                }
                Step::Long(bytes) => {
                    self.waiting = Some(bytes);
                    break;
                }
                Step::Incomplete => {
                    self.starved = true;
                    break;
                }
            };
            bytes = &bytes[done..];
        }
        debug_assert!(!self.starved || bytes.len() <= LONGEST_PIECE);
        self.kept = bytes.to_vec();
        Ok(())
    }
}
