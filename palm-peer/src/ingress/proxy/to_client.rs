//! The direction from the server to the client: counts what is written.

use super::{Alarm, ConnectionEnd, WriteBuffer, poll_read_behind, with_scratch};
use crate::{
    ingress::{connection::ClientConnection, connection_table::ConnectionTable},
    io::executor::UnixStream,
};
use futures::AsyncRead as _;
use palm_proto::{
    limits::slow_client::SlowReader,
    zmtp::frames::{Limits, Scanner, Step},
};
use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

/// The direction from the inner socket to the client.
#[derive(Debug)]
pub(crate) struct ToClient {
    connection: Arc<ClientConnection>,
    inner: UnixStream,
    table: Arc<ConnectionTable>,
    scanner: Scanner,
    kept: Vec<u8>,
    pending: WriteBuffer,
    /// Bytes of the server that are in `pending` or accepted, and not counted as written yet.
    uncounted: u64,
    progress: SlowReader,
    alarm: Alarm,
}

impl ToClient {
    /// Begins after the handshake.
    pub(crate) fn new(
        inner: UnixStream,
        connection: Arc<ClientConnection>,
        table: Arc<ConnectionTable>,
    ) -> Self {
        Self {
            connection,
            inner,
            table,
            scanner: Scanner::new(Limits::NONE),
            kept: Vec::new(),
            pending: WriteBuffer::default(),
            uncounted: 0,
            progress: SlowReader::default(),
            alarm: Alarm::default(),
        }
    }

    /// Runs until the connection ends.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Infallible, ConnectionEnd>> {
        let connection = Arc::clone(&self.connection);
        connection.state.register_to_client(cx);
        loop {
            if self.table.is_ended(&connection.state) {
                return Poll::Ready(Err(ConnectionEnd::Closed));
            }
            let flushed = self.pending.poll_flush(cx, &connection.client_stream)?;
            if flushed.is_pending() {
                // Over TLS, accepted bytes may not have been sent.
                let sent = connection
                    .client_stream
                    .sent()
                    .unwrap_or(self.pending.accepted);
                let until = self.progress.waiting(sent, Instant::now())?;
                ready!(self.alarm.poll(cx, Some(until)));
                continue;
            }
            self.progress.flushed();
            if self.uncounted > 0 {
                let bytes = std::mem::take(&mut self.uncounted);
                self.table
                    .written(&connection.state, bytes, self.scanner.messages());
            }
            if !self.answer_ping(cx, &connection)? {
                ready!(self.poll_read(cx, &connection))?;
            }
        }
    }

    /// Reads and discards what the server still sends, until its side of the connection has ended.
    /// `ZeroMQ` must not find the connection broken while it writes: then one of its tasks would
    /// block on a lock, on a thread that others need.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.kept = Vec::new();
        self.pending = WriteBuffer::default();
        with_scratch(|scratch| {
            while let Ok(1..) = ready!(Pin::new(&mut &self.inner).poll_read(cx, scratch)) {}
            Poll::Ready(())
        })
    }

    /// Sends the queued PONG, if the position is between two messages. Returns whether it did.
    fn answer_ping(
        &mut self,
        cx: &mut Context<'_>,
        connection: &ClientConnection,
    ) -> io::Result<bool> {
        if self.scanner.within_message() || !self.kept.is_empty() {
            return Ok(false);
        }
        let Some(pong) = connection.state.take_pong() else {
            return Ok(false);
        };
        self.pending.write(cx, &connection.client_stream, &pong)?;
        Ok(true)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        connection: &ClientConnection,
    ) -> Poll<Result<(), ConnectionEnd>> {
        let kept = std::mem::take(&mut self.kept);
        let left = self.scanner.left();
        let inner = self.inner.clone();
        let read = poll_read_behind(cx, &inner, &kept, left, |cx, bytes| {
            self.scan(cx, connection, bytes)
        });
        if read.is_pending() {
            self.kept = kept;
        }
        read
    }

    fn scan(
        &mut self,
        cx: &mut Context<'_>,
        connection: &ClientConnection,
        mut bytes: &[u8],
    ) -> Result<(), ConnectionEnd> {
        while !bytes.is_empty() {
            // A PONG must be sent between two messages, so the end of the first one is searched.
            let max = if connection.state.has_pong() {
                1
            } else {
                u64::MAX
            };
            let Step::Pass(count) = self.scanner.step(bytes, max)? else {
                break;
            };
            self.pending
                .write(cx, &connection.client_stream, &bytes[..count])?;
            self.uncounted += count as u64;
            bytes = &bytes[count..];
            self.answer_ping(cx, connection)?;
        }
        self.kept = bytes.to_vec();
        Ok(())
    }
}
