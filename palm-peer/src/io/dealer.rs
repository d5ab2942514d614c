//! A DEALER over any byte stream: one connection to one ROUTER.
//!
//! It implements ZMTP itself, while the listening side uses the zeromq crate: that crate's DEALER
//! allocates whatever length a server announces, which aborts the process, cannot run over TLS, and
//! writes each message separately.

mod activity;

pub(crate) use self::activity::Activity;
use super::{
    handshake::{HandshakeError, shake_hands},
    timer::{self, Sleep},
};
use bytes::Bytes;
use futures::{AsyncRead, AsyncWrite, FutureExt as _, channel::oneshot};
use palm_proto::{
    limits::rate_limiter::RateLimiter,
    zmtp::{
        RejectReason,
        frames::{Limits, ping_frame},
        handshake::ANSWERING,
        messages::{Batch, Decoder, Incoming},
    },
};
use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

/// The frames of a message.
pub(crate) type Frames = Vec<Bytes>;

/// How many bytes may be queued for a connection that does not accept them; one message is always
/// allowed. The windows of clients are far below.
const MAX_QUEUED: usize = 1024 * 1024 * 1024;

/// The read buffer of connections that have filled the small one, in bytes; few do.
const LONG_READ: usize = 64 * 1024;

/// The read buffer of other connections, in bytes.
const SHORT_READ: usize = 4 * 1024;

/// How many PINGs are answered per second: more are an attack, not a health check.
const MAX_PINGS: u32 = 100;

/// How long queued messages may take to be sent after the sender is dropped.
const LINGER: Duration = Duration::from_secs(5);

/// The reading half of a byte stream.
pub(crate) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;

/// The other half.
pub(crate) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// A message could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendError {
    /// The connection has ended.
    Ended,
    /// The queue is full, because the peer does not read.
    Full,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ended => "the connection has ended",
            Self::Full => "the server does not read what it is sent",
        })
    }
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum ConnectionEnd {
    /// The peer closed it, or it broke.
    Closed,
    /// The peer violated the protocol.
    Refused(RejectReason),
}

/// The sending side of a connection. Queued messages are still sent after it is dropped.
pub(crate) struct Sender {
    outbox: Arc<Outbox>,
    answers_pings: bool,
    is_native: bool,
}

/// The receiving side of a connection.
pub(crate) struct Receiver {
    half: ReadHalf,
    decoder: Decoder,
    buffer: Vec<u8>,
    ready: VecDeque<Frames>,
    /// A peer that sends PINGs without end, and may not read the answers, would keep us busy and
    /// fill our memory.
    pings: RateLimiter,
    outbox: Arc<Outbox>,
}

/// The writer of a connection: a future that ends with it, and must be run in the background.
pub(crate) struct Writer {
    outbox: Arc<Outbox>,
}

/// The queue of messages to be sent.
struct Outbox {
    queue: Mutex<Queue>,
    wire: Mutex<Wire>,
    activity: Activity,
}

#[derive(Default)]
struct Queue {
    batch: Batch,
    /// Whether the sender has ended.
    ended: bool,
    /// The waker of the writer, while it waits for messages.
    writer: Option<Waker>,
    /// The wakers of those that wait until everything is written.
    flushing: Vec<oneshot::Sender<()>>,
}

/// The writing end of the stream.
struct Wire {
    half: WriteHalf,
    /// What is being written.
    batch: Batch,
}

/// Opens a connection over a stream's halves. Not bounded in time. Fails when the peer
/// is not a ROUTER.
pub(crate) async fn open(
    mut read: ReadHalf,
    mut write: WriteHalf,
    limits: Limits,
) -> Result<(Sender, Receiver, Writer), HandshakeError> {
    let opened = shake_hands(&mut read, &mut write, "DEALER", &ANSWERING).await?;
    let wire = Mutex::new(Wire {
        half: write,
        batch: Batch::default(),
    });
    let outbox = Arc::new(Outbox {
        queue: Mutex::default(),
        wire,
        activity: Activity::new(),
    });
    let mut receiver = Receiver {
        half: read,
        decoder: Decoder::new(limits),
        buffer: vec![0; SHORT_READ],
        ready: VecDeque::new(),
        pings: RateLimiter::new(MAX_PINGS, Instant::now()),
        outbox: Arc::clone(&outbox),
    };
    receiver.handle_bytes(&opened.beyond)?;
    Ok((
        Sender {
            outbox: Arc::clone(&outbox),
            answers_pings: opened.answers_pings,
            is_native: opened.is_native,
        },
        receiver,
        Writer { outbox },
    ))
}

impl Sender {
    /// Queues a message. With `at_once`, the calling thread writes it if the queue is empty, which
    /// saves waking the writer; without it, many messages may share one write. Fails when the
    /// connection has ended, or the queue is full.
    pub(crate) fn send(&self, frames: &[Bytes], at_once: bool) -> Result<(), SendError> {
        self.queue(at_once, |batch| batch.push(frames))
    }

    /// Queues a message of two frames, of which the first is short, as [`Sender::send`] does.
    pub(crate) fn send_pair(
        &self,
        header: &[u8],
        payload: &Bytes,
        at_once: bool,
    ) -> Result<(), SendError> {
        self.queue(at_once, |batch| batch.push_pair(header, payload))
    }

    fn queue(&self, at_once: bool, put: impl FnOnce(&mut Batch)) -> Result<(), SendError> {
        let mut queue = self.outbox.put(put)?;
        if at_once {
            drop(queue);
            if self.outbox.write_at_once() {
                return Ok(());
            }
            queue = self.outbox.queue();
        }
        wake_writer(queue);
        Ok(())
    }

    /// Sends a PING with this number.
    pub(crate) fn ping(&self, number: u64) -> Result<(), SendError> {
        self.queue(true, |batch| batch.push_raw(&ping_frame(number)))
    }

    /// Whether the peer answers PINGs.
    pub(crate) fn answers_pings(&self) -> bool {
        self.answers_pings
    }

    /// Whether the link is native.
    pub(crate) fn is_native(&self) -> bool {
        self.is_native
    }

    /// Returns the activity of the connection.
    pub(crate) fn activity(&self) -> &Activity {
        &self.outbox.activity
    }

    /// Waits until the peer's kernel has everything that was sent, or the connection has ended.
    pub(crate) async fn flushed(&self) {
        self.outbox.flushed().await;
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.outbox.end();
    }
}

impl Receiver {
    /// Waits for the next message. Cancel-safe. Fails with the end of the connection.
    pub(crate) async fn receive(&mut self) -> Result<Frames, ConnectionEnd> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frames, ConnectionEnd>> {
        loop {
            if let Some(frames) = self.ready.pop_front() {
                return Poll::Ready(Ok(frames));
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            let read = Pin::new(&mut self.half).poll_read(cx, &mut buffer);
            let count = if let Poll::Ready(Ok(count)) = read {
                count
            } else {
                0
            };
            if count > 0 {
                self.outbox.activity.received();
            }
            let taken = self.handle_bytes(&buffer[..count]);
            if count == buffer.len() {
                buffer.resize(LONG_READ, 0);
            }
            self.buffer = buffer;
            match ready!(read) {
                Ok(1..) => taken.map_err(ConnectionEnd::Refused)?,
                Ok(0) | Err(_) => return Poll::Ready(Err(ConnectionEnd::Closed)),
            }
        }
    }

    fn handle_bytes(&mut self, mut bytes: &[u8]) -> Result<(), RejectReason> {
        while let Some(incoming) = self.decoder.decode(&mut bytes)? {
            match incoming {
                Incoming::Message(frames) => self.ready.push_back(frames),
                Incoming::Pong(number) => self.outbox.activity.take_pong(number),
                Incoming::Ping(ping) => {
                    if !self.pings.try_acquire(Instant::now()) {
                        return Err(RejectReason::Command);
                    }
                    // The reader notices the end.
                    if let Ok(queue) = self.outbox.put(|batch| batch.push_raw(&ping.pong)) {
                        wake_writer(queue);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.outbox.end();
    }
}

impl Writer {
    /// Writes messages until the connection ends, or the sender has ended and everything is
    /// written, or that takes too long.
    pub(crate) async fn run(self) {
        let mut linger = None;
        let _ = poll_fn(|cx| self.outbox.poll_write(cx, &mut linger)).await;
        self.outbox.clear();
        // If closing fails, dropping the stream closes it.
        let _ = timer::timeout(
            LINGER,
            poll_fn(|cx| Pin::new(&mut self.outbox.wire().half).poll_close(cx)),
        )
        .await;
    }
}

/// Clears the queue when the writer ends, even by a panic: without it nothing is written any more.
impl Drop for Writer {
    fn drop(&mut self) {
        self.outbox.clear();
    }
}

impl Outbox {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues something. Returns the queue, in which the writer may wait for it.
    fn put(&self, put: impl FnOnce(&mut Batch)) -> Result<MutexGuard<'_, Queue>, SendError> {
        let mut queue = self.queue();
        if queue.ended {
            return Err(SendError::Ended);
        }
        if queue.batch.len() > MAX_QUEUED {
            return Err(SendError::Full);
        }
        let before = queue.batch.len();
        put(&mut queue.batch);
        self.activity.queue(queue.batch.len() - before);
        Ok(queue)
    }

    fn end(&self) {
        let mut queue = self.queue();
        queue.ended = true;
        wake_writer(queue);
    }

    /// Drops what could not be written.
    fn clear(&self) {
        self.wire().batch = Batch::default();
        *self.queue() = Queue {
            ended: true,
            ..Queue::default()
        };
    }

    async fn flushed(&self) {
        let flushed = {
            let wire = self.wire();
            let mut queue = self.queue();
            if wire.batch.is_empty() && queue.batch.is_empty() {
                return;
            }
            let (tx, flushed) = oneshot::channel();
            queue.flushing.push(tx);
            drop(wire);
            wake_writer(queue);
            flushed
        };
        // The writer notifies, or is gone.
        let _ = flushed.await;
    }

    /// Writes the queue, unless another thread does so. Returns whether everything was written.
    fn write_at_once(&self) -> bool {
        let mut wire = match self.wire.try_lock() {
            Ok(wire) => wire,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        // The writer handles the rest, and errors, when it is woken.
        matches!(
            self.poll_flush(&mut wire, &mut Context::from_waker(Waker::noop())),
            Poll::Ready(Ok(()))
        )
    }

    /// Writes until the queue is empty.
    fn poll_flush(&self, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if wire.batch.is_empty() {
                let queue = &mut *self.queue();
                if queue.batch.is_empty() {
                    break;
                }
                std::mem::swap(&mut wire.batch, &mut queue.batch);
            }
            let pieces = wire.batch.next(usize::MAX);
            let count = ready!(Pin::new(&mut wire.half).poll_write_vectored(cx, &pieces))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            wire.batch.advance(count);
            self.activity.write(count);
        }
        Pin::new(&mut wire.half).poll_flush(cx)
    }

    fn poll_write(&self, cx: &mut Context<'_>, linger: &mut Option<Sleep>) -> Poll<io::Result<()>> {
        loop {
            let flushed = self.poll_flush(&mut self.wire(), cx)?;
            let mut queue = self.queue();
            if queue.ended && (flushed.is_ready() && queue.batch.is_empty()) {
                return Poll::Ready(Ok(()));
            }
            if queue.ended
                && linger
                    .get_or_insert_with(|| timer::sleep(LINGER))
                    .poll_unpin(cx)
                    .is_ready()
            {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            // The end of the connection must also be noticed while the peer does not read.
            queue.writer = Some(cx.waker().clone());
            if flushed.is_pending() {
                return Poll::Pending;
            }
            if queue.batch.is_empty() {
                // The caller may have stopped waiting.
                for tx in queue.flushing.drain(..) {
                    let _ = tx.send(());
                }
                return Poll::Pending;
            }
        }
    }
}

/// Wakes the writer, if it waits.
fn wake_writer(mut queue: MutexGuard<'_, Queue>) {
    let writer = queue.writer.take();
    // What it wakes must find no lock held.
    drop(queue);
    if let Some(writer) = writer {
        writer.wake();
    }
}

#[cfg(test)]
mod tests;
