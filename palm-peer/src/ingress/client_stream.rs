//! The client's side of a connection, with or without TLS.

use crate::io::{executor::TcpStream, tls};
use futures::{AsyncRead, AsyncWrite, task::noop_waker_ref};
use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll},
};

/// The client's side of a connection, which one task reads and another writes.
#[derive(Debug)]
pub(super) struct ClientStream {
    tcp: TcpStream,
    /// The TCP connection or the TLS session on it.
    tls: Option<tls::Stream>,
}

impl ClientStream {
    /// Creates it over the socket, or over the TLS session on it.
    pub(super) fn new(tcp: TcpStream, tls: Option<tls::Stream>) -> Self {
        Self { tcp, tls }
    }

    /// Returns how many bytes the system has accepted, if that differs from the written
    /// bytes: over TLS.
    pub(super) fn sent(&self) -> Option<u64> {
        self.tls.as_ref().map(tls::Stream::sent)
    }

    /// Closes the connection, with a close notification if that can be sent at once.
    pub(super) fn close(&self) {
        if let Some(tls) = &self.tls {
            let _ = Pin::new(&mut &*tls).poll_close(&mut Context::from_waker(noop_waker_ref()));
        }
        // It may be closed already.
        let _ = self.tcp.shutdown(Shutdown::Both);
    }
}

impl AsyncRead for &ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match &self.tls {
            Some(tls) => Pin::new(&mut &*tls).poll_read(cx, buf),
            None => Pin::new(&mut &self.tcp).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for &ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &self.tls {
            Some(tls) => Pin::new(&mut &*tls).poll_write(cx, buf),
            None => Pin::new(&mut &self.tcp).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &self.tls {
            Some(tls) => Pin::new(&mut &*tls).poll_write_vectored(cx, bufs),
            None => Pin::new(&mut &self.tcp).poll_write_vectored(cx, bufs),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            Some(tls) => Pin::new(&mut &*tls).poll_flush(cx),
            None => Pin::new(&mut &self.tcp).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            Some(tls) => Pin::new(&mut &*tls).poll_close(cx),
            None => Pin::new(&mut &self.tcp).poll_close(cx),
        }
    }
}
