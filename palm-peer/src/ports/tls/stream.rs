//! A connection over TLS, and the socket below it.

use crate::ports::{runtime::TcpStream, timer};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use futures_rustls::TlsStream;
use std::{
    cell::Cell,
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

/// How much is read from the system at once. rustls alone would ask for 4 KiB, which is a system call for each quarter of a
/// record.
const READ: usize = 64 * 1024;

/// How long the other side may take to hear why it was refused.
const LAST_WORDS: Duration = Duration::from_millis(500);

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection over TLS, whose other side has proven who it is. What was written is under way once it was flushed.
///
/// Its clones are the same connection. One task may read it while another writes it: a TLS session does both in one piece, so
/// they take turns, and the socket below wakes each for its own direction.
#[derive(Debug, Clone)]
pub struct Stream(Arc<Mutex<TlsStream<Socket>>>);

impl Stream {
    pub(super) fn new(stream: TlsStream<Socket>) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    fn lock(&self) -> MutexGuard<'_, TlsStream<Socket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for &Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_read(cx, buf)
    }
}

impl AsyncWrite for &Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(cx)
    }

    /// Tells the other side that no more comes, and ends the writing.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_close(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_close(cx)
    }
}

/// A socket that is read in large pieces. Holds nothing while nothing comes.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    kept: Vec<u8>,
    at: usize,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, kept: Vec::new(), at: 0 }
    }

    /// Waits a moment for the other side to end the connection, having heard why: to close at once what has unread bytes
    /// would take back what was said last.
    pub(super) async fn linger(mut self) {
        // One that is closed already has heard enough.
        let _ = self.tcp.shutdown(Shutdown::Write);
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
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.at == this.kept.len() {
            // What a connection does not need now, others do.
            (this.kept, this.at) = (Vec::new(), 0);
            let mut scratch = SCRATCH.take();
            scratch.resize(READ, 0);
            let read = Pin::new(&mut &this.tcp).poll_read(cx, &mut scratch).map_ok(|count| {
                let now = count.min(buf.len());
                buf[..now].copy_from_slice(&scratch[..now]);
                this.kept = scratch[now..count].to_vec();
                now
            });
            SCRATCH.set(scratch);
            return read;
        }
        let now = buf.len().min(this.kept.len() - this.at);
        buf[..now].copy_from_slice(&this.kept[this.at..this.at + now]);
        this.at += now;
        Poll::Ready(Ok(now))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &self.tcp).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &self.tcp).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &self.tcp).poll_close(cx)
    }
}
