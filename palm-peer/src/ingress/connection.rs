//! Accepting a connection: the handshake with the client, then, unless the link is native, one with
//! the inner socket.

use super::{
    client_stream::ClientStream,
    connection_table::{self, ConnectionState},
    fd_reserve::Reserve,
    proxy::{ConnectionEnd, Decoding, FromOutbox, Sink, ToClient, ToInner, ToServer},
    shared::{RETRY, Shared},
};
use crate::io::{
    executor::{self, TcpStream, UnixStream},
    fd_limit,
    handshake::{HandshakeError, Opened, shake_hands},
    tasks::Name,
    timer,
    tls::{TlsError, TlsErrorKind},
    zmq,
};
use futures::{
    future::{Either, select},
    pin_mut,
};
use palm_proto::zmtp::{RejectReason, handshake::ASKING};
use std::{
    future::poll_fn,
    io,
    net::{IpAddr, Shutdown},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// How long accepting a connection may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long the inner socket may take before it is created again: everything happens
/// in this process.
const INNER: Duration = Duration::from_secs(2);

/// A permit for a connection; released on drop.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl ConnectionPermit {
    /// Acquires a permit.
    pub(super) fn take(shared: &Arc<Shared>, address: IpAddr) -> Result<Self, RejectReason> {
        shared.admission().enter(address)?;
        shared.metrics.opened();
        Ok(Self {
            shared: Arc::clone(shared),
            address,
        })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.shared.admission().leave(self.address);
        self.shared.metrics.closed();
        self.shared.ended.wake();
    }
}

/// An accepted connection.
#[derive(Debug)]
pub(super) struct ClientConnection {
    /// The client's side.
    pub client_stream: ClientStream,
    /// Our side of the connection to the inner socket, unless the link is native.
    inner: Option<UnixStream>,
    /// Its entry in the connection table.
    pub state: Arc<ConnectionState>,
    // Dropped last, after the descriptors have been closed.
    permit: ConnectionPermit,
}

impl ClientConnection {
    /// Closes the connection to the client, and half-closes the one to the inner socket, if there
    /// is one: its remaining output must be read to its end.
    fn close(&self, end: ConnectionEnd) {
        self.permit.shared.table.end(
            &self.state,
            if let ConnectionEnd::Refused(reason) = end {
                Some(reason)
            } else {
                None
            },
        );
        self.state.outbox().close();
        self.client_stream.close();
        if let Some(inner) = &self.inner {
            // It may be closed already.
            let _ = inner.shutdown(Shutdown::Write);
        }
    }
}

/// Closes the connection when one of its two directions ends in any way.
struct CloseOnDrop(Arc<ClientConnection>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(ConnectionEnd::Closed);
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        let shared = &self.permit.shared;
        if let Some(reason) = shared.table.close(&self.state) {
            shared.metrics.refuse(reason, self.permit.address, "");
        }
    }
}

/// Why a connection was rejected.
#[derive(Debug)]
struct Rejection {
    reason: RejectReason,
    /// A message that says more than the reason.
    message: String,
}

impl Rejection {
    /// Creates the rejection for an internal error: `what` failed with this error.
    fn own(what: &str, error: &io::Error) -> Self {
        if fd_limit::is_exhausted(error) {
            return RejectReason::Descriptors.into();
        }
        Self {
            reason: RejectReason::Internal,
            message: format!("{what}: {error}"),
        }
    }
}

impl From<RejectReason> for Rejection {
    fn from(reason: RejectReason) -> Self {
        Self {
            reason,
            message: String::new(),
        }
    }
}

impl From<HandshakeError> for Rejection {
    fn from(unopened: HandshakeError) -> Self {
        match unopened {
            HandshakeError::Refused(reason) => reason.into(),
            HandshakeError::Broken(_) => RejectReason::ClosedEarly.into(),
        }
    }
}

impl From<TlsError> for Rejection {
    fn from(failure: TlsError) -> Self {
        let reason = match failure.kind {
            TlsErrorKind::NotTls => RejectReason::NotTls,
            TlsErrorKind::Version => RejectReason::TlsVersion,
            TlsErrorKind::Certificate => RejectReason::Certificate,
            TlsErrorKind::Distrusted => RejectReason::Distrusted,
            TlsErrorKind::Broken => RejectReason::ClosedEarly,
        };
        Self {
            reason,
            message: failure.to_string(),
        }
    }
}

/// Accepts a connection after its handshake, and serves it to its end.
pub(super) async fn host(
    shared: Arc<Shared>,
    permit: ConnectionPermit,
    reserve: Reserve,
    tcp: TcpStream,
) {
    let address = permit.address;
    let entering = enter(&shared, permit, reserve, tcp);
    pin_mut!(entering);
    // When the ingress closes, connections that are not accepted yet are refused.
    let Either::Left((entered, _)) = select(entering, shared.closing.clone()).await else {
        return;
    };
    match entered {
        Ok((connection, kept)) => carry(&shared, Arc::new(connection), kept).await,
        Err(Rejection { reason, message }) => shared.metrics.refuse(reason, address, &message),
    }
}

async fn carry(shared: &Arc<Shared>, connection: Arc<ClientConnection>, kept: Vec<u8>) {
    let table = || Arc::clone(&shared.table);
    let close_on_drop = CloseOnDrop(Arc::clone(&connection));
    if let Some(inner) = connection.inner.clone() {
        let sink = ToInner::new(inner.clone());
        let mut to_client = ToClient::new(inner, Arc::clone(&connection), table());
        let carrying = async move {
            let Err(end) = poll_fn(|cx| to_client.poll(cx)).await;
            close_on_drop.0.close(end);
            poll_fn(|cx| to_client.poll_rest(cx)).await;
        };
        shared.carry(Name::ConnectionOutward, carrying);
        receive(shared, connection, sink, kept).await;
    } else {
        let (inbox, limits) = (Arc::clone(&shared.inbox), shared.limits);
        let sink = Decoding::new(Arc::clone(&connection), table(), inbox, limits);
        let mut to_client = FromOutbox::new(Arc::clone(&connection), table());
        let carrying = async move {
            let Err(end) = poll_fn(|cx| to_client.poll(cx)).await;
            close_on_drop.0.close(end);
        };
        shared.carry(Name::ConnectionOutward, carrying);
        receive(shared, connection, sink, kept).await;
    }
}

/// Carries the direction to the server.
async fn receive(
    shared: &Shared,
    connection: Arc<ClientConnection>,
    sink: impl Sink,
    kept: Vec<u8>,
) {
    let connection = CloseOnDrop(connection);
    let connection = &connection.0;
    let mut to_server = ToServer::new(
        sink,
        Arc::clone(connection),
        Arc::clone(&shared.table),
        shared.limits,
        kept,
    );
    let Err(end) = poll_fn(|cx| to_server.poll(cx)).await;
    connection.close(end);
}

async fn enter(
    shared: &Shared,
    permit: ConnectionPermit,
    reserve: Reserve,
    tcp: TcpStream,
) -> Result<(ClientConnection, Vec<u8>), Rejection> {
    let arrived = timer::timeout(HANDSHAKE, arrive(shared, tcp)).await;
    let (client_stream, opened) = arrived.unwrap_or(Err(RejectReason::Silent.into()))?;
    let kept = opened.beyond;
    let id = shared.connections.fetch_add(1, Ordering::Relaxed);
    let state = shared.table.open(id);
    shared.metrics.entered();
    if opened.is_native {
        let inner = None;
        let connection = ClientConnection {
            client_stream,
            inner,
            state,
            permit,
        };
        // Asked after the connection is in the table: either this sees that nobody receives any
        // more, or who says so sees it there.
        if shared.inbox.is_closed() {
            return Err(Rejection::own(
                "nobody receives any more",
                &io::ErrorKind::BrokenPipe.into(),
            ));
        }
        return Ok((connection, kept));
    }
    let connected = timer::timeout(
        HANDSHAKE,
        connect(shared, &connection_table::identity(id), reserve),
    )
    .await;
    let connected = connected.unwrap_or_else(|_| Err(late(HANDSHAKE)));
    let inner = connected.inspect_err(|_| {
        let _ = shared.table.close(&state);
    });
    let inner =
        inner.map_err(|error| Rejection::own("the inner socket cannot be reached", &error))?;
    Ok((
        ClientConnection {
            client_stream,
            inner: Some(inner),
            state,
            permit,
        },
        kept,
    ))
}

/// Performs the handshake with the client, over TLS if it is configured.
async fn arrive(shared: &Shared, tcp: TcpStream) -> Result<(ClientStream, Opened), Rejection> {
    executor::tune(&tcp).map_err(|error| Rejection::own("its socket cannot be set up", &error))?;
    let tls = match &shared.credentials {
        Some(credentials) => Some(credentials.accept(tcp.clone()).await?),
        None => None,
    };
    let client_stream = ClientStream::new(tcp, tls);
    let opened = shake_hands(&client_stream, &client_stream, "ROUTER", &ASKING).await?;
    Ok((client_stream, opened))
}

/// Goes on to `ZeroMQ`, with the descriptors that were held for it. Another part of the program may
/// take them in between; then waits for others, but not for ever. An inner socket that does not
/// work any more is made anew, once.
async fn connect(
    shared: &Shared,
    connection: &zmq::Connection,
    reserve: Reserve,
) -> io::Result<UnixStream> {
    let start = Instant::now();
    let mut inner = shared.inner.lock().await;
    drop(reserve);
    let mut reopened = false;
    loop {
        let connected = timer::timeout(INNER, inner.connect(connection)).await;
        match connected.unwrap_or_else(|_| Err(late(INNER))) {
            Err(error)
                if fd_limit::is_exhausted(&error) && start.elapsed() + 2 * RETRY < HANDSHAKE =>
            {
                shared.released().await;
            }
            // The pipe is broken when nobody receives any more.
            Err(error)
                if !fd_limit::is_exhausted(&error)
                    && error.kind() != io::ErrorKind::BrokenPipe
                    && !std::mem::replace(&mut reopened, true) =>
            {
                shared.metrics.reopen(&error);
                inner.reopen()?;
            }
            connected => return connected,
        }
    }
}

/// The inner socket did not answer in time.
fn late(time: Duration) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("it did not answer within {time:?}"),
    )
}
