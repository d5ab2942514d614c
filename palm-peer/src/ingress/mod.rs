//! The public listener: validates TLS and ZMTP handshakes and frame headers before anything
//! else sees a byte.
//!
//! It is the only part of a server that remote peers can reach. It serves *native* connections,
//! those of the library's own peers, itself: it decodes their messages, and encodes the answers.
//! For all other clients, `ZeroMQ` has a Unix socket behind it for each connection. In both cases a
//! connection goes on only after its handshake, and a frame only after its header has been checked
//! against the limits.

mod client_stream;
mod connection;
mod connection_table;
mod fd_reserve;
mod inbox;
mod inner;
pub(crate) mod metrics;
mod outbox;
mod proxy;
mod receiver;
mod shared;

pub(crate) use self::{
    connection_table::{Connection, ConnectionState},
    inner::NoDirectory,
    receiver::{Event, Receiver},
};

use self::{
    connection::ConnectionPermit, connection_table::ConnectionTable, fd_reserve::Reserve,
    inbox::Inbox, inner::Inner, metrics::IngressMetrics, shared::Shared,
};
use crate::io::{
    executor::{self, TcpListener, TcpStream},
    tasks::{Name, Supervisor},
    timer,
    tls::Credentials,
    zmq::{self, Frames},
};
use bytes::Bytes;
use futures::{
    FutureExt as _,
    channel::oneshot,
    future::{BoxFuture, Either, select},
    pin_mut,
    task::AtomicWaker,
};
use palm_proto::{
    config::ValidConfig, limits::connection_limiter::ConnectionLimiter, zmtp::frames::Limits,
};
use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};

/// The listen backlog, if `net.core.somaxconn` allows so many. The standard library uses 128. With
/// more waiting connections, the system drops packets: a new client then waits for a second or
/// more, or is reset after the handshake.
const BACKLOG: i32 = 4096;

/// How long closing waits for the end of the connections.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Why an ingress cannot be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The address cannot be bound.
    Address(io::Error),
    /// There is no directory for the inner socket.
    Directory(NoDirectory),
    /// Another error.
    Other(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Other(error)
    }
}

impl From<NoDirectory> for OpenError {
    fn from(error: NoDirectory) -> Self {
        Self::Directory(error)
    }
}

/// An open ingress. Closed on drop.
#[derive(Debug)]
pub(crate) struct Ingress {
    table: Arc<ConnectionTable>,
    /// Dropping it ends accepting and the running handshakes.
    _closing: oneshot::Sender<()>,
}

/// Sends answers.
#[derive(Clone)]
pub(crate) struct Sender {
    socket: zmq::Sender,
    /// Counts what is sent; `None` without an ingress.
    table: Option<Arc<ConnectionTable>>,
    /// The native connections with answers whose writers were not woken yet.
    unflushed: Vec<Arc<ConnectionState>>,
}

impl Sender {
    /// Sends to a connection. Nearly always done on return; otherwise the returned future finishes
    /// it; over a native connection it is written after [`Sender::flush`]. A message to a connection
    /// that is gone is dropped. So is one for a connection that leaves too much unread, which is
    /// closed.
    pub(crate) fn send(
        &mut self,
        to: &Connection,
        frames: Frames,
    ) -> Option<BoxFuture<'static, ()>> {
        if !self.is_accepted(to, zmq::wire_length(&frames)) {
            return None;
        }
        match to {
            Connection::Native(connection) => {
                connection.outbox().push(&frames);
                self.mark_unflushed(connection);
                None
            }
            Connection::Inner(identity) => self.socket.send(identity, frames),
        }
    }

    /// Sends a header and a payload over a native connection; else as [`Sender::send`].
    pub(crate) fn send_pair(&mut self, to: &Arc<ConnectionState>, header: &[u8], payload: &Bytes) {
        let bytes = zmq::frame_length(header) + zmq::frame_length(payload);
        if self.is_accepted(&Connection::Native(Arc::clone(to)), bytes) {
            to.outbox().push_pair(header, payload);
            self.mark_unflushed(to);
        }
    }

    fn mark_unflushed(&mut self, connection: &Arc<ConnectionState>) {
        if connection.begin_batch() {
            self.unflushed.push(Arc::clone(connection));
        }
    }

    /// Has what was sent written. To be called when there is nothing more to send for now: a
    /// connection's messages then share a write.
    pub(crate) fn flush(&mut self) {
        for connection in self.unflushed.drain(..) {
            connection.end_batch();
        }
    }

    /// Counts what is about to be sent. Returns whether it may be.
    fn is_accepted(&self, to: &Connection, bytes: u64) -> bool {
        self.table
            .as_ref()
            .is_none_or(|table| table.send(to, bytes))
    }
}

/// What was sent before the dispatch loop ended, even by a panic, is written.
impl Drop for Sender {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Returns what a server sends and receives with that is only called from within its process, and
/// what calls it.
pub(crate) fn in_process() -> (zmq::InProcess, Sender, Receiver) {
    let (requests, socket, receiver) = zmq::in_process();
    let sender = Sender {
        socket,
        table: None,
        unflushed: Vec::new(),
    };
    let table = Arc::new(ConnectionTable::new(u64::MAX, u64::MAX));
    let receiver = Receiver::new(receiver, Arc::default(), table);
    (requests, sender, receiver)
}

impl Ingress {
    /// Opens an ingress at `address`, with TLS if there are credentials; port 0 lets the system
    /// choose. Returns its address. Fails when the address cannot be bound, or there is no
    /// directory for the inner socket.
    pub(crate) async fn open(
        address: SocketAddr,
        config: &ValidConfig,
        metrics: Arc<IngressMetrics>,
        credentials: Option<Arc<Credentials>>,
        supervisor: &Supervisor,
    ) -> Result<(Self, Sender, Receiver, SocketAddr), OpenError> {
        let listener = StdListener::bind(address).map_err(OpenError::Address)?;
        rustix::net::listen(&listener, BACKLOG)
            .map_err(|error| OpenError::Address(error.into()))?;
        let bound = listener.local_addr()?;
        let table = Arc::new(ConnectionTable::new(
            config.max_unread as u64,
            config.max_held as u64,
        ));
        metrics.attach(&table);
        let (tell_closing, closing) = oneshot::channel();
        let inbox = Arc::new(Inbox::default());
        let (attacher, sender, receiver) = zmq::attachable();
        let shared = Arc::new(Shared {
            limits: Limits::for_payloads(config.max_payload),
            admission: Mutex::new(ConnectionLimiter::new(
                config.max_connections,
                config.max_per_address,
            )),
            table: Arc::clone(&table),
            metrics,
            credentials,
            connections: AtomicU64::new(0),
            ended: AtomicWaker::new(),
            closing: closing.shared(),
            inbox: Arc::clone(&inbox),
            inner: futures::lock::Mutex::new(Inner::open(attacher)?),
            spare: File::open("/dev/null")?,
        });
        listener.set_nonblocking(true)?;
        let listener = Arc::new(TcpListener::from(listener));
        let accepting = move || accept(Arc::clone(&shared), Arc::clone(&listener));
        executor::keep(supervisor, Name::Listener, accepting);
        let sender = Sender {
            socket: sender,
            table: Some(Arc::clone(&table)),
            unflushed: Vec::new(),
        };
        let receiver = Receiver::new(receiver, inbox, Arc::clone(&table));
        Ok((
            Self {
                table,
                _closing: tell_closing,
            },
            sender,
            receiver,
            bound,
        ))
    }

    /// Has `ZeroMQ` itself listen at `address`, unprotected, to measure what the ingress costs.
    #[cfg(feature = "bench")]
    pub(crate) async fn bypass(
        address: SocketAddr,
    ) -> Result<(Self, Sender, Receiver, SocketAddr), OpenError> {
        let listener = StdListener::bind(address).map_err(OpenError::Address)?;
        let bound = listener.local_addr()?;
        let (sender, receiver) = zmq::listen(listener).await?;
        let table = Arc::new(ConnectionTable::new(u64::MAX, u64::MAX));
        let receiver = Receiver::new(receiver, Arc::default(), Arc::clone(&table));
        let (closing, _) = oneshot::channel();
        Ok((
            Self {
                table,
                _closing: closing,
            },
            Sender {
                socket: sender,
                table: None,
                unflushed: Vec::new(),
            },
            receiver,
            bound,
        ))
    }

    /// Waits until everything that was sent was accepted by the clients' kernels. A client that
    /// reads nothing is cut off only after a while, so callers need a timeout.
    pub(crate) async fn settled(&self) {
        self.table.flushed().await;
    }

    /// Closes the ingress, after its [`Sender`]s and its [`Receiver`] are dropped.
    pub(crate) async fn close(self) {
        let table = Arc::clone(&self.table);
        drop(self);
        // Waits until clients are notified, but not for clients that do not read.
        let _ = timer::timeout(LAST_WORDS, table.emptied()).await;
    }
}

async fn accept(shared: Arc<Shared>, listener: Arc<TcpListener>) {
    let accepting = accept_all(&shared, &listener);
    pin_mut!(accepting);
    if let Either::Left((never, _)) = select(accepting, shared.closing.clone()).await {
        match never {}
    }
}

async fn accept_all(shared: &Arc<Shared>, listener: &TcpListener) -> std::convert::Infallible {
    loop {
        // While there are too few descriptors, new connections wait in the listen backlog.
        let reserve = Reserve::wait(shared).await;
        match listener.accept().await {
            Ok((tcp, from)) => admit(shared, reserve, tcp, from),
            // The client closed the connection before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                shared.metrics.pause(&error.to_string());
                shared.released().await;
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, reserve: Reserve, tcp: TcpStream, from: SocketAddr) {
    match ConnectionPermit::take(shared, from.ip()) {
        Ok(place) => {
            let hosting = connection::host(Arc::clone(shared), place, reserve, tcp);
            shared.carry(Name::Connection, hosting);
        }
        Err(reason) => shared.metrics.refuse(reason, from.ip(), ""),
    }
}
