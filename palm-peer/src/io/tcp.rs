//! A TCP connection, and the thread that polls it.

use super::{
    dealer::{ReadHalf, WriteHalf},
    etcd::{Etcd, LocalStream},
    executor::TcpStream,
};
use futures::{AsyncRead, AsyncWrite};
use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll},
};

/// A TCP connection.
#[derive(Debug)]
pub(crate) enum Tcp {
    /// Polled by the library's executor.
    Shared(TcpStream),
    /// Polled by the thread of its tasks.
    Local(LocalStream),
}

impl Tcp {
    /// Connects to an address, for tasks on the thread of `home`, or otherwise on the
    /// library's executor.
    pub(crate) async fn connect(address: SocketAddr, home: Option<&Etcd>) -> io::Result<Self> {
        match home {
            Some(home) => home.connect_tcp(address).await.map(Self::Local),
            None => TcpStream::connect(address).await.map(Self::Shared),
        }
    }

    /// Half-closes the connection. Closing the executor's own stream does not do that while it has
    /// clones. Fails when the connection is gone already.
    #[cfg(feature = "tls")]
    pub(crate) fn shut_down_write(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self, rustix::net::Shutdown::Write)?)
    }

    /// Splits it into its two sides, for two tasks.
    pub(crate) fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Shared(tcp) => (Box::new(tcp.clone()), Box::new(tcp)),
            Self::Local(tcp) => {
                let (reader, writer) = tcp.into_split();
                (Box::new(reader), Box::new(writer))
            }
        }
    }
}

impl From<TcpStream> for Tcp {
    fn from(tcp: TcpStream) -> Self {
        Self::Shared(tcp)
    }
}

impl AsFd for Tcp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Shared(tcp) => tcp.as_fd(),
            Self::Local(tcp) => tcp.as_fd(),
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Shared(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Local(tcp) => Pin::new(tcp).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Shared(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Local(tcp) => Pin::new(tcp).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Shared(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Local(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Shared(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Local(tcp) => Pin::new(tcp).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Shared(tcp) => Pin::new(tcp).poll_close(cx),
            Self::Local(tcp) => Pin::new(tcp).poll_close(cx),
        }
    }
}
