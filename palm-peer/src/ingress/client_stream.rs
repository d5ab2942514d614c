//! The stranger's end of a connection, over TLS or not.

use crate::io::{executor::TcpStream, tls};
use futures::{AsyncRead, AsyncWrite, task::noop_waker_ref};
use std::{
    io,
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll},
};

/// The stranger's end, which one task reads and another writes.
#[derive(Debug)]
pub(super) struct ClientStream {
    tcp: TcpStream,
    /// What lies between us and the socket.
    tls: Option<tls::Stream>,
}

impl ClientStream {
    /// Over the socket as it is, or over the TLS on it.
    pub(super) fn new(tcp: TcpStream, tls: Option<tls::Stream>) -> Self {
        Self { tcp, tls }
    }

    /// How many bytes the other side's system has accepted, where these are others than were written: over TLS.
    pub(super) fn sent(&self) -> Option<u64> {
        self.tls.as_ref().map(tls::Stream::sent)
    }

    /// Ends the connection, and says so, if that can be said at once.
    pub(super) fn close(&self) {
        if let Some(tls) = &self.tls {
            let _ = Pin::new(&mut &*tls).poll_close(&mut Context::from_waker(noop_waker_ref()));
        }
        // An end that is closed already is what is wanted.
        let _ = self.tcp.shutdown(Shutdown::Both);
    }
}

impl AsyncRead for &ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match &self.tls {
            Some(tls) => Pin::new(&mut &*tls).poll_read(cx, buf),
            None => Pin::new(&mut &self.tcp).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for &ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &self.tls {
            Some(tls) => Pin::new(&mut &*tls).poll_write(cx, buf),
            None => Pin::new(&mut &self.tcp).poll_write(cx, buf),
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
