//! A native connection: its messages go to the dispatch loop, and the loop's answers to the client,
//! without `ZeroMQ`.

use super::{Alarm, ConnectionEnd, LONG_READ, Sink};
use crate::ingress::{
    connection::ClientConnection,
    connection_table::{Connection, ConnectionTable},
    inbox::{Inbox, Item},
};
use futures::AsyncWrite as _;
use palm_proto::{
    limits::slow_client::SlowReader,
    zmtp::{
        frames::Limits,
        messages::{Batch, Decoder, Incoming},
    },
};
use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

/// Decodes the messages of a client, and passes them to the dispatch loop.
#[derive(Debug)]
pub(crate) struct Decoding {
    connection: Arc<ClientConnection>,
    id: Connection,
    table: Arc<ConnectionTable>,
    inbox: Arc<Inbox>,
    decoder: Decoder,
}

impl Decoding {
    /// Begins after the handshake.
    pub(crate) fn new(
        connection: Arc<ClientConnection>,
        table: Arc<ConnectionTable>,
        inbox: Arc<Inbox>,
        limits: Limits,
    ) -> Self {
        let id = Connection::Native(Arc::clone(&connection.state));
        let decoder = Decoder::new(limits);
        Self {
            connection,
            id,
            table,
            inbox,
            decoder,
        }
    }
}

impl Sink for Decoding {
    fn poll_accepted(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectionEnd>> {
        Poll::Ready(Ok(()))
    }

    fn pass(&mut self, _: &mut Context<'_>, mut bytes: &[u8]) -> Result<(), ConnectionEnd> {
        let (mut messages, mut queued) = (Vec::new(), 0);
        while let Some(incoming) = self.decoder.decode(&mut bytes)? {
            // PINGs are answered before bytes are passed on.
            if let Incoming::Message(frames) = incoming {
                let bytes = frames.iter().map(|frame| frame.len() as u64).sum();
                queued += bytes;
                messages.push(Item::Message(frames, bytes));
            }
        }
        if !messages.is_empty() {
            // Counted first, so that the dispatch loop cannot take a message before it was counted.
            self.table.queued(&self.connection.state, queued);
            self.inbox.push(&self.id, messages);
        }
        Ok(())
    }
}

/// The dispatch loop must learn of the end, however it comes.
impl Drop for Decoding {
    fn drop(&mut self) {
        let end = Item::End {
            _connection: Arc::clone(&self.connection),
        };
        self.inbox.push(&self.id, [end]);
    }
}

/// Writes what the dispatch loop has sent.
#[derive(Debug)]
pub(crate) struct FromOutbox {
    connection: Arc<ClientConnection>,
    table: Arc<ConnectionTable>,
    /// What is being written: a PONG or nothing, and then messages.
    batch: Batch,
    /// How many bytes of the PONG are left, which do not count as written.
    pong: usize,
    /// How many bytes the client's side accepted so far, and how many of them are not
    /// counted as written yet.
    accepted: u64,
    uncounted: u64,
    progress: SlowReader,
    alarm: Alarm,
}

impl FromOutbox {
    /// Begins after the handshake.
    pub(crate) fn new(connection: Arc<ClientConnection>, table: Arc<ConnectionTable>) -> Self {
        Self {
            connection,
            table,
            batch: Batch::default(),
            pong: 0,
            accepted: 0,
            uncounted: 0,
            progress: SlowReader::default(),
            alarm: Alarm::default(),
        }
    }

    /// Runs until the connection ends.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Infallible, ConnectionEnd>> {
        let connection = Arc::clone(&self.connection);
        let state = &connection.state;
        loop {
            state.register_to_client(cx);
            if self.table.is_ended(state) {
                return Poll::Ready(Err(ConnectionEnd::Closed));
            }
            if self.poll_write(cx, &connection)?.is_pending() {
                // Over TLS, accepted bytes may not have been sent.
                let sent = connection.client_stream.sent().unwrap_or(self.accepted);
                let until = self.progress.waiting(sent, Instant::now())?;
                ready!(self.alarm.poll(cx, Some(until)));
                continue;
            }
            if !self.batch.is_empty() {
                continue;
            }
            self.progress.flushed();
            if let Some(pong) = state.take_pong() {
                self.pong = pong.len();
                self.batch.push_raw(&pong);
                continue;
            }
            // Read first: nothing is sent any more after that.
            let is_finishing = state.is_finishing();
            state.outbox().take(&mut self.batch);
            if self.batch.is_empty() {
                return if is_finishing {
                    Poll::Ready(Err(ConnectionEnd::Closed))
                } else {
                    Poll::Pending
                };
            }
        }
    }

    /// Writes a part of the batch, and counts it once it is sent: all that goes, or over TLS as
    /// much as may lie in the session.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        connection: &ClientConnection,
    ) -> io::Result<Poll<()>> {
        let mut stream = &connection.client_stream;
        let is_tls = stream.sent().is_some();
        let mut left = if is_tls { LONG_READ } else { usize::MAX };
        while !self.batch.is_empty() && left > 0 {
            let pieces = self.batch.next(left);
            match Pin::new(&mut stream).poll_write_vectored(cx, &pieces)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => {
                    self.accept(count);
                    left -= count;
                }
                Poll::Pending => {
                    if !is_tls {
                        self.count(connection);
                    }
                    return Ok(Poll::Pending);
                }
            }
        }
        let flushed = Pin::new(&mut stream).poll_flush(cx)?;
        if flushed.is_ready() {
            self.count(connection);
        }
        Ok(flushed)
    }

    fn accept(&mut self, count: usize) {
        self.batch.advance(count);
        self.accepted += count as u64;
        let of_pong = count.min(self.pong);
        self.pong -= of_pong;
        self.uncounted += (count - of_pong) as u64;
    }

    fn count(&mut self, connection: &ClientConnection) {
        let bytes = std::mem::take(&mut self.uncounted);
        if bytes > 0 {
            // No queue of messages is behind this.
            self.table.written(&connection.state, bytes, u64::MAX);
        }
    }
}
