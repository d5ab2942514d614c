//! The direction from the client to the server: scans the bytes, and passes them on
//! while there is room.

use super::{Alarm, ConnectionEnd, WriteBuffer, poll_read_behind};
use crate::{
    ingress::{connection::ClientConnection, connection_table::ConnectionTable},
    io::executor::UnixStream,
};
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

/// Where the bytes of complete or partial messages go once they are checked.
pub(crate) trait Sink {
    /// Waits until everything that was passed is accepted. Fails with the end of the connection.
    fn poll_accepted(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionEnd>>;

    /// Passes bytes on. Fails with the end of the connection.
    fn pass(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<(), ConnectionEnd>;
}

/// Passes bytes to the inner socket.
#[derive(Debug)]
pub(crate) struct ToInner {
    inner: UnixStream,
    pending: WriteBuffer,
}

impl ToInner {
    pub(crate) fn new(inner: UnixStream) -> Self {
        Self {
            inner,
            pending: WriteBuffer::default(),
        }
    }
}

impl Sink for ToInner {
    fn poll_accepted(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionEnd>> {
        let accepted = ready!(self.pending.poll_flush(cx, &self.inner));
        Poll::Ready(accepted.map_err(Into::into))
    }

    fn pass(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<(), ConnectionEnd> {
        Ok(self.pending.write(cx, &self.inner, bytes)?)
    }
}

/// The direction from the client to the server.
#[derive(Debug)]
pub(crate) struct ToServer<S> {
    connection: Arc<ClientConnection>,
    table: Arc<ConnectionTable>,
    scanner: Scanner,
    /// The long frame that follows, and waits for its permit.
    waiting: Option<u64>,
    /// The bytes that were read and not scanned.
    kept: Vec<u8>,
    /// Whether these cannot be scanned before more bytes arrive.
    starved: bool,
    sink: S,
    progress: SlowSender,
    silence_alarm: Alarm,
    rate_alarm: Alarm,
}

impl<S: Sink> ToServer<S> {
    /// Begins after the handshake; `kept` are the bytes that were read beyond it.
    pub(crate) fn new(
        sink: S,
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
            sink,
            progress: SlowSender::default(),
            silence_alarm: Alarm::default(),
            rate_alarm: Alarm::default(),
        }
    }

    /// Runs until the connection ends.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Infallible, ConnectionEnd>> {
        let connection = Arc::clone(&self.connection);
        loop {
            ready!(self.sink.poll_accepted(cx))?;
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
                    self.sink.pass(cx, &bytes[..count])?;
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
