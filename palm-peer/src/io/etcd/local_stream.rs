//! TCP connections whose tasks run on etcd's thread, which polls their sockets itself.
//!
//! Over the library's executor, each answer would wake three threads in turn: the one that polls
//! all sockets, the one of the task, and the first one again. For a leader of thousands of servers
//! that is most of the cost of a probe.

use super::Etcd;
use futures::{AsyncRead, AsyncWrite};
use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// A connection polled by etcd's thread. It ends with that thread.
#[derive(Debug)]
pub(crate) struct LocalStream(TcpStream);

/// The receiving side of a [`LocalStream`].
#[derive(Debug)]
pub(crate) struct LocalReader(OwnedReadHalf);

/// The sending side of a [`LocalStream`].
#[derive(Debug)]
pub(crate) struct LocalWriter(OwnedWriteHalf);

impl Etcd {
    /// Connects to a TCP address, for tasks on this handle's thread.
    pub(crate) async fn connect_tcp(&self, address: SocketAddr) -> io::Result<LocalStream> {
        let handle = self.0.thread.handle();
        let mut connecting = pin!(TcpStream::connect(address));
        poll_fn(move |cx| {
            // The socket must belong to the reactor of this thread, whichever thread polls it.
            let _context = handle.enter();
            connecting.as_mut().poll(cx)
        })
        .await
        .map(LocalStream)
    }
}

impl LocalStream {
    /// Splits it into its two sides, for two tasks.
    pub(crate) fn into_split(self) -> (LocalReader, LocalWriter) {
        let (reader, writer) = self.0.into_split();
        (LocalReader(reader), LocalWriter(writer))
    }
}

impl AsFd for LocalStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// tokio's streams with the traits of `futures`.
macro_rules! readable {
    ($stream:ty) => {
        impl AsyncRead for $stream {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                let mut buffer = ReadBuf::new(buf);
                ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
        }
    };
}

macro_rules! writable {
    ($stream:ty) => {
        impl AsyncWrite for $stream {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.0).poll_write(cx, buf)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_flush(cx)
            }

            fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_shutdown(cx)
            }
        }
    };
}

readable!(LocalStream);
writable!(LocalStream);
readable!(LocalReader);
writable!(LocalWriter);
