//! How a connection gets in: the handshake with the stranger, and then one with the inner socket.

use super::{
    client_stream::ClientStream,
    connection_table::{self, ConnectionState},
    fd_reserve::Reserve,
    proxy::{End, ToClient, ToServer},
    shared::{RETRY, Shared},
};
use crate::io::{
    executor::{self, TcpStream, UnixStream},
    fd_limit,
    handshake::{HandshakeError, shake_hands},
    tasks::Name,
    timer,
    tls::{TlsError, TlsErrorKind},
    zmq::Connection,
};
use futures::{
    future::{Either, select},
    pin_mut,
};
use palm_proto::zmtp::{Refusal, handshake::ASKING};
use std::{
    future::poll_fn,
    io,
    net::{IpAddr, Shutdown},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// How long a connection may take until it is in.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long the inner socket may take before it is made anew: all of it happens in this process.
const INNER: Duration = Duration::from_secs(2);

/// A place among the connections; given back on drop.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl ConnectionPermit {
    /// Takes a place.
    pub(super) fn take(shared: &Arc<Shared>, address: IpAddr) -> Result<Self, Refusal> {
        shared.admission().enter(address)?;
        shared.tally.opened();
        Ok(Self { shared: Arc::clone(shared), address })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.shared.admission().leave(self.address);
        self.shared.tally.closed();
        self.shared.ended.wake();
    }
}

/// A connection that was let in.
#[derive(Debug)]
pub(super) struct ClientConnection {
    /// The stranger's end.
    pub outside: ClientStream,
    /// Our end of the connection to the inner socket.
    pub inner: UnixStream,
    /// Its place in the table of connections.
    pub state: Arc<ConnectionState>,
    // Dropped last, when the descriptors are free again.
    place: ConnectionPermit,
}

impl ClientConnection {
    /// Ends the connection with the stranger, and tells the inner socket that no more will come. What that still sends is to
    /// be read to its end.
    fn part(&self, end: End) {
        self.place.shared.table.end(&self.state, if let End::Refused(refusal) = end { Some(refusal) } else { None });
        self.outside.close();
        // An end that is closed already is what is wanted.
        let _ = self.inner.shutdown(Shutdown::Write);
    }
}

/// Ends the connection with one of its two halves, whichever way that one ends.
struct GoodbyeAck(Arc<ClientConnection>);

impl Drop for GoodbyeAck {
    fn drop(&mut self) {
        self.0.part(End::Closed);
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        let shared = &self.place.shared;
        if let Some(refusal) = shared.table.close(&self.state) {
            shared.tally.refuse(refusal, self.place.address, "");
        }
    }
}

/// Why a connection was not let in.
#[derive(Debug)]
struct Rejection {
    refusal: Refusal,
    /// What there is to say beyond the refusal.
    words: String,
}

impl Rejection {
    /// A failure of our own: doing `what` ended with this error.
    fn own(what: &str, error: &io::Error) -> Self {
        if fd_limit::is_exhausted(error) {
            return Refusal::Descriptors.into();
        }
        Self { refusal: Refusal::Internal, words: format!("{what}: {error}") }
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, words: String::new() }
    }
}

impl From<HandshakeError> for Rejection {
    fn from(unopened: HandshakeError) -> Self {
        match unopened {
            HandshakeError::Refused(refusal) => refusal.into(),
            HandshakeError::Broken(_) => Refusal::ClosedEarly.into(),
        }
    }
}

impl From<TlsError> for Rejection {
    fn from(failure: TlsError) -> Self {
        let refusal = match failure.kind {
            TlsErrorKind::NotTls => Refusal::NotTls,
            TlsErrorKind::Version => Refusal::TlsVersion,
            TlsErrorKind::Certificate => Refusal::Certificate,
            TlsErrorKind::Distrusted => Refusal::Distrusted,
            TlsErrorKind::Broken => Refusal::ClosedEarly,
        };
        Self { refusal, words: failure.to_string() }
    }
}

/// Lets a stranger in, if it behaves, and serves it to its end.
pub(super) async fn host(shared: Arc<Shared>, place: ConnectionPermit, reserve: Reserve, tcp: TcpStream) {
    let address = place.address;
    let entering = enter(&shared, place, reserve, tcp);
    pin_mut!(entering);
    // When the ingress closes, connections that are not accepted yet are refused.
    let Either::Left((entered, _)) = select(entering, shared.closing.clone()).await else { return };
    match entered {
        Ok((guest, kept)) => carry(&shared, Arc::new(guest), kept).await,
        Err(Rejection { refusal, words }) => shared.tally.refuse(refusal, address, &words),
    }
}

async fn carry(shared: &Arc<Shared>, guest: Arc<ClientConnection>, kept: Vec<u8>) {
    let mut outward = ToClient::new(Arc::clone(&guest), Arc::clone(&shared.table));
    let parting = GoodbyeAck(Arc::clone(&guest));
    let carrying = async move {
        let Err(end) = poll_fn(|cx| outward.poll(cx)).await;
        parting.0.part(end);
        poll_fn(|cx| outward.poll_rest(cx)).await;
    };
    shared.carry(Name::ConnectionOutward, carrying);
    let guest = GoodbyeAck(guest);
    let guest = &guest.0;
    let mut inward = ToServer::new(Arc::clone(guest), Arc::clone(&shared.table), shared.limits, kept);
    let Err(end) = poll_fn(|cx| inward.poll(cx)).await;
    guest.part(end);
}

async fn enter(
    shared: &Shared,
    place: ConnectionPermit,
    reserve: Reserve,
    tcp: TcpStream,
) -> Result<(ClientConnection, Vec<u8>), Rejection> {
    let arrived = timer::timeout(HANDSHAKE, arrive(shared, tcp)).await;
    let (outside, kept) = arrived.unwrap_or(Err(Refusal::Silent.into()))?;
    let id = shared.connections.fetch_add(1, Ordering::Relaxed);
    let state = shared.table.open(id);
    shared.tally.entered();
    let connected = timer::timeout(HANDSHAKE, connect(shared, &connection_table::identity(id), reserve)).await;
    let connected = connected.unwrap_or_else(|_| Err(late(HANDSHAKE)));
    let inner = connected.inspect_err(|_| {
        let _ = shared.table.close(&state);
    });
    let inner = inner.map_err(|error| Rejection::own("the inner socket cannot be reached", &error))?;
    Ok((ClientConnection { outside, inner, state, place }, kept))
}

/// Shakes hands with the stranger, over TLS if we have it; gives what it sent beyond.
async fn arrive(shared: &Shared, tcp: TcpStream) -> Result<(ClientStream, Vec<u8>), Rejection> {
    executor::tune(&tcp).map_err(|error| Rejection::own("its socket cannot be set up", &error))?;
    let tls = match &shared.credentials {
        Some(credentials) => Some(credentials.accept(tcp.clone()).await?),
        None => None,
    };
    let outside = ClientStream::new(tcp, tls);
    let kept = shake_hands(&outside, &outside, "ROUTER", &ASKING).await?.beyond;
    Ok((outside, kept))
}

/// Goes on to `ZeroMQ`, with the descriptors that were held for it. Another part of the program may take them in between;
/// then waits for others, but not for ever. An inner socket that does not work any more is made anew, once.
async fn connect(shared: &Shared, connection: &Connection, reserve: Reserve) -> io::Result<UnixStream> {
    let start = Instant::now();
    let mut inner = shared.inner.lock().await;
    drop(reserve);
    let mut reopened = false;
    loop {
        let connected = timer::timeout(INNER, inner.connect(connection)).await;
        match connected.unwrap_or_else(|_| Err(late(INNER))) {
            Err(error) if fd_limit::is_exhausted(&error) && start.elapsed() + 2 * RETRY < HANDSHAKE => {
                shared.released().await;
            }
            // The pipe is broken when nobody receives any more.
            Err(error)
                if !fd_limit::is_exhausted(&error)
                    && error.kind() != io::ErrorKind::BrokenPipe
                    && !std::mem::replace(&mut reopened, true) =>
            {
                shared.tally.reopen(&error);
                inner.reopen()?;
            }
            connected => return connected,
        }
    }
}

/// The inner socket did not answer in time.
fn late(time: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("it did not answer within {time:?}"))
}
