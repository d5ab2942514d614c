//! A connection over TLS, and the socket below it.

use crate::io::{tcp::Tcp, timer};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use futures_rustls::TlsStream;
use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

/// The read size, in bytes. rustls alone would read 4 KiB, which is a system call for each
/// quarter of a record.
const READ: usize = 128 * 1024;

/// How long to wait for the peer to read the alert that says why it was refused.
const LAST_WORDS: Duration = Duration::from_millis(500);

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A TLS connection to an authenticated peer. Written data is sent once it was flushed.
///
/// Its clones are the same connection. One task may read it while another writes it: a TLS
/// session cannot do both at the same time, so they take turns, and the socket below wakes each
/// for its own direction.
#[derive(Debug, Clone)]
pub(crate) struct Stream(Arc<Mutex<TlsStream<Socket>>>);

impl Stream {
    pub(super) fn new(stream: TlsStream<Socket>) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    /// Returns how many bytes the system has accepted so far.
    pub(crate) fn sent(&self) -> u64 {
        self.lock().get_ref().0.sent
    }

    fn lock(&self) -> MutexGuard<'_, TlsStream<Socket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for &Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut stream = self.lock();
        let mut count = ready!(Pin::new(&mut *stream).poll_read(cx, buf))?;
        // rustls returns one record at a time. Records that are here already are added, so that
        // they are passed on in few pieces.
        while count > 0 && count < buf.len() && !stream.get_ref().0.is_empty() {
            match Pin::new(&mut *stream).poll_read(cx, &mut buf[count..]) {
                Poll::Ready(Ok(more @ 1..)) => count += more,
                // The next read returns the same error.
                _ => break,
            }
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for &Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(cx)
    }

    /// Sends the close notification, and ends writing.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_close(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_close(cx)
    }
}

/// A socket that is read in large pieces. Holds no buffer while idle.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: Tcp,
    /// The bytes read, up to `end`, and consumed, up to `pos`. Borrowed from the thread; empty when
    /// all is consumed.
    buffer: Vec<u8>,
    pos: usize,
    end: usize,
    /// How many bytes the system has accepted so far.
    sent: u64,
}

impl Socket {
    pub(super) fn new(tcp: impl Into<Tcp>) -> Self {
        Self {
            tcp: tcp.into(),
            buffer: Vec::new(),
            pos: 0,
            end: 0,
            sent: 0,
        }
    }

    fn count(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        written.map_ok(|count| {
            self.sent += count as u64;
            count
        })
    }

    /// Returns whether all bytes read are consumed.
    fn is_empty(&self) -> bool {
        self.pos == self.end
    }

    /// Waits a moment for the peer to close the connection after it has read the alert: closing a
    /// connection with unread bytes sends a reset, which may discard the alert.
    pub(super) async fn linger(mut self) {
        // A closed connection needs no wait.
        let _ = self.tcp.shut_down_write();
        let ending = async {
            let mut unread = [0; 1024];
            for _ in 0..64 {
                if !matches!(self.tcp.read(&mut unread).await, Ok(1..)) {
                    break;
                }
            }
        };
        let _ = timer::timeout(LAST_WORDS, ending).await;
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.is_empty() {
            let mut buffer = SPARE.take();
            buffer.resize(READ, 0);
            match Pin::new(&mut this.tcp).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(count)) => (this.buffer, this.pos, this.end) = (buffer, 0, count),
                other => {
                    SPARE.set(buffer);
                    return other;
                }
            }
        }
        let now = buf.len().min(this.end - this.pos);
        buf[..now].copy_from_slice(&this.buffer[this.pos..this.pos + now]);
        this.pos += now;
        if this.is_empty() {
            // The buffer goes back to the thread, for other connections.
            SPARE.set(std::mem::take(&mut this.buffer));
        }
        Poll::Ready(Ok(now))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.count(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_close(cx)
    }
}
