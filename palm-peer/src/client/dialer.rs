//! Opens links to an endpoint, if the server there proves to have the expected uuid.

use crate::{
    client::{
        link::{Link, Where},
        replies::ReplyRouter,
    },
    io::{
        connect,
        dealer::{self, ConnectionEnd, ReadHalf, WriteHalf},
        etcd::Etcd,
        executor, fd_limit,
        handshake::HandshakeError,
        tasks::Name,
        tcp::Tcp,
        tcp_state::Ends,
        timer,
        tls::{self, Credentials},
    },
    sync::Counter,
};
use futures::{FutureExt as _, TryFutureExt as _, channel::oneshot};
use palm_proto::{
    config::ValidConfig,
    types::message::{self, Answer},
    zmtp::frames::Limits,
};
use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// Why a link could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// The connection was refused: no process listens there.
    Refused,
    /// Another server listens there.
    Impostor(Uuid),
    /// There was no answer for this long; nothing is proven.
    Silent(Duration),
    /// This host has no route to the address family, such as IPv6; nothing is proven.
    NoRoute(String),
    /// The attempt failed for another reason; nothing is proven.
    Failed(String),
    /// The host has several addresses, and each failed for its own reason.
    AllFailed(Vec<(SocketAddr, OpenError)>),
    /// This process lacks a resource, such as a file descriptor; this says nothing
    /// about the server.
    Local(String),
}

impl OpenError {
    /// Returns whether this proves that the process that used to answer there is gone.
    pub(crate) fn proves_gone(&self) -> bool {
        match self {
            Self::Refused | Self::Impostor(_) => true,
            Self::Silent(_) | Self::NoRoute(_) | Self::Failed(_) | Self::Local(_) => false,
            Self::AllFailed(failures) => {
                // An address family that this host cannot use says nothing, so the
                // other one decides.
                let usable = |v6| {
                    failures
                        .iter()
                        .any(|(a, e)| a.is_ipv6() == v6 && !matches!(e, Self::NoRoute(_)))
                };
                let mut counted = failures
                    .iter()
                    .filter(|(address, _)| usable(address.is_ipv6()))
                    .peekable();
                counted.peek().is_some() && counted.all(|(_, error)| error.proves_gone())
            }
        }
    }

    /// Returns whether the error is local, and says nothing about the server.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Local(_) => true,
            Self::AllFailed(failures) => failures.iter().any(|(_, error)| error.is_local()),
            _ => false,
        }
    }

    /// Returns whether another attempt may succeed later: a silent server may be busy.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Silent(_) => true,
            Self::AllFailed(failures) => failures.iter().any(|(_, error)| error.is_passing()),
            _ => false,
        }
    }

    /// Returns the error for a host, of whose addresses at least one was tried.
    fn of_all(mut failures: Vec<(SocketAddr, Self)>) -> Self {
        if failures.len() > 1 {
            return Self::AllFailed(failures);
        }
        failures.pop().map_or_else(
            || Self::Failed("it has no address".into()),
            |(_, error)| error,
        )
    }

    /// Returns the error for an address that does not accept the connection.
    fn of_connect(address: SocketAddr, error: Option<io::Error>, time: Duration) -> Self {
        let Some(error) = error else {
            return Self::Silent(time);
        };
        match error.kind() {
            io::ErrorKind::NetworkUnreachable => Self::NoRoute(error.to_string()),
            // The error of a system with IPv6 switched off. For IPv4, it means that all local
            // ports are in use.
            io::ErrorKind::AddrNotAvailable if address.is_ipv6() => {
                Self::NoRoute(error.to_string())
            }
            _ => error.into(),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Impostor(other) => write!(f, "server {other} answers there"),
            Self::Silent(time) => write!(f, "no answer within {time:?}"),
            Self::NoRoute(reason) | Self::Failed(reason) | Self::Local(reason) => {
                f.write_str(reason)
            }
            Self::AllFailed(failures) => {
                for (i, (address, error)) in failures.iter().enumerate() {
                    write!(f, "{}{address}: {error}", if i > 0 { "; " } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

impl From<tls::TlsError> for OpenError {
    fn from(failure: tls::TlsError) -> Self {
        Self::Failed(failure.to_string())
    }
}

impl From<HandshakeError> for OpenError {
    fn from(unopened: HandshakeError) -> Self {
        Self::Failed(match &unopened {
            // The server's verdict on our certificate comes with its first bytes.
            HandshakeError::Broken(error) => {
                tls::explain(error).map_or_else(|| unopened.to_string(), |why| why.to_string())
            }
            HandshakeError::Refused(reason) => reason.to_string(),
        })
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ if fd_limit::is_local(&error) => Self::Local(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// The longest log digest, in bytes: more than a server can log between two probes.
const MAX_DIGEST_BYTES: usize = 4 * 1024 * 1024;

/// Opens links for one client or server.
#[derive(Clone)]
pub(crate) struct Dialer {
    me: Uuid,
    limits: Limits,
    credentials: Option<Arc<Credentials>>,
    /// The thread on which the links' tasks run; `None` is the library's executor, which
    /// functions may share.
    home: Option<Etcd>,
    /// Counts the links of this dialer and of those made from it.
    metrics: Arc<LinkMetrics>,
}

/// Counts links to other servers.
#[derive(Debug, Default)]
pub(crate) struct LinkMetrics {
    opened: Counter,
    closed: Counter,
    failed: Counter,
}

impl LinkMetrics {
    /// Returns how many were opened.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.get()
    }

    /// Returns how many could not be opened.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.get()
    }

    /// Returns how many are open now.
    pub(crate) fn open(&self) -> u64 {
        // Read first, so that it is the smaller one.
        let closed = self.closed.get();
        self.opened.get().saturating_sub(closed)
    }
}

/// Counts an open link until it is dropped.
struct OpenLink(Arc<LinkMetrics>);

impl OpenLink {
    fn new(metrics: &Arc<LinkMetrics>) -> Self {
        metrics.opened.increment();
        Self(Arc::clone(metrics))
    }
}

impl Drop for OpenLink {
    fn drop(&mut self) {
        self.0.closed.increment();
    }
}

impl Dialer {
    /// The credentials for TLS, if it is used.
    pub(crate) fn credentials(&self) -> Option<Arc<Credentials>> {
        self.credentials.clone()
    }

    /// Creates a dialer for `me`, with TLS if there are credentials.
    pub(crate) fn new(
        me: Uuid,
        config: &ValidConfig,
        credentials: Option<Arc<Credentials>>,
    ) -> Self {
        Self {
            me,
            limits: Limits::for_payloads(config.max_payload),
            credentials,
            home: None,
            metrics: Arc::default(),
        }
    }

    /// Returns the counters of its links.
    pub(crate) fn metrics(&self) -> &LinkMetrics {
        &self.metrics
    }

    /// Returns a dialer for health checks: answers are shorter, and the links' tasks run on
    /// etcd's thread, so that a function that blocks the executor does not make all other servers
    /// look unresponsive.
    pub(crate) fn for_probes(&self, etcd: &Etcd) -> Self {
        Self {
            limits: Limits::for_payloads(MAX_DIGEST_BYTES),
            home: Some(etcd.clone()),
            ..self.clone()
        }
    }

    /// Returns the uuid of the client or server that opens the links.
    pub(crate) fn me(&self) -> Uuid {
        self.me
    }

    /// Connects to `endpoint` (`tcp://host:port`), and checks that the server there has the uuid
    /// `server`. All addresses of the host are tried, also when one accepts the connection but the
    /// server there has another uuid. Fails when no server, another server, or none that answers
    /// within `time` is there.
    pub(crate) async fn open(
        &self,
        endpoint: &str,
        server: Uuid,
        time: Duration,
    ) -> Result<Arc<Link>, OpenError> {
        self.open_for_jobs(endpoint, server, time, ReplyRouter::default())
            .await
    }

    /// As [`Dialer::open`]; answers to messages of jobs go to `jobs`.
    pub(crate) fn open_for_jobs(
        &self,
        endpoint: &str,
        server: Uuid,
        time: Duration,
        jobs: ReplyRouter,
    ) -> impl Future<Output = Result<Arc<Link>, OpenError>> + Send {
        let opening = self.try_open(endpoint, server, time, jobs);
        opening.inspect_err(|_| self.metrics.failed.increment())
    }

    async fn try_open(
        &self,
        endpoint: &str,
        server: Uuid,
        time: Duration,
        jobs: ReplyRouter,
    ) -> Result<Arc<Link>, OpenError> {
        let address = endpoint.strip_prefix("tcp://").unwrap_or(endpoint);
        let deadline = Instant::now() + time;
        let resolved = connect::addresses(address, time).await;
        let mut left = resolved.map_err(|error| OpenError::Failed(error.to_string()))?;
        let mut failures = Vec::new();
        loop {
            let connect = |address| Tcp::connect(address, self.home.as_ref());
            let (at, tcp) = match connect::race(&left, deadline, connect).await {
                Ok(connected) => connected,
                Err(failed) => {
                    failures.extend(
                        failed
                            .into_iter()
                            .map(|(at, error)| (at, OpenError::of_connect(at, error, time))),
                    );
                    return Err(OpenError::of_all(failures));
                }
            };
            left.retain(|other| *other != at);
            let now = Instant::now();
            // An address that accepts and then stays silent must leave time for the
            // other addresses.
            let until = if left.is_empty() {
                deadline
            } else {
                now + deadline.saturating_duration_since(now) / 2
            };
            let opening = timer::timeout_at(
                until,
                self.open_over(tcp, host(address), server, jobs.clone()),
            )
            .await;
            match opening.unwrap_or(Err(OpenError::Silent(time))) {
                Ok(link) => return Ok(link),
                Err(error) => failures.push((at, error)),
            }
            if left.is_empty() {
                return Err(OpenError::of_all(failures));
            }
        }
    }

    async fn open_over(
        &self,
        tcp: Tcp,
        host: &str,
        server: Uuid,
        jobs: ReplyRouter,
    ) -> Result<Arc<Link>, OpenError> {
        executor::tune(&tcp)?;
        let ends = Ends::of(&tcp)?;
        let (read, write): (ReadHalf, WriteHalf) = match &self.credentials {
            Some(credentials) => {
                let stream = credentials.connect(tcp, host).await?;
                (Box::new(stream.clone()), Box::new(stream))
            }
            None => tcp.into_split(),
        };
        let (sender, mut receiver, writer) = dealer::open(read, write, self.limits).await?;
        self.spawn(Name::LinkWriter, writer.run());
        let say = |text: Vec<u8>| sender.send(&[text.into()], true);
        say(message::encode_identify(self.me))
            .map_err(|error| OpenError::Failed(error.to_string()))?;
        let frames = receiver.receive().await.map_err(|end| {
            OpenError::Failed(match end {
                ConnectionEnd::Closed => "the connection ended before a greeting".into(),
                ConnectionEnd::Refused(reason) => reason.to_string(),
            })
        })?;
        match frames.first().and_then(|header| Answer::decode(header)) {
            Some(answer) if answer.server == server => {
                say(message::encode_hello(self.me))
                    .map_err(|error| OpenError::Failed(error.to_string()))?;
                let (link, receiving, greeted) = Link::new(self.me, server, jobs, sender, receiver);
                let open = OpenLink::new(&self.metrics);
                self.spawn(Name::LinkReader, receiving.map(move |()| drop(open)));
                self.spawn(Name::LinkWatch, link.watching(Where { server, ends }));
                // Until the server has this greeting, it sends answers of jobs over our previous
                // connection, which we may have given up while the server has not noticed its end.
                // A message that reaches it over another server in this time loses its answer.
                greeted.await.map_err(|oneshot::Canceled| {
                    OpenError::Failed(
                        "the connection ended before its greeting was answered".into(),
                    )
                })?;
                Ok(link)
            }
            Some(answer) => Err(OpenError::Impostor(answer.server)),
            None => Err(OpenError::Failed(
                "what listens there is not a PALM server".into(),
            )),
        }
    }

    fn spawn(&self, name: Name, future: impl Future<Output = ()> + Send + 'static) {
        match &self.home {
            Some(etcd) => drop(etcd.spawn(name, future)),
            None => executor::spawn(name, future),
        }
    }
}

/// Returns the host of `host:port`, without the brackets of an IPv6 address.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::zmq::{self, RouterEvent};
    use futures::{executor::block_on, future::join};

    /// Until the server has the greeting, it answers the messages of jobs over an earlier
    /// connection, which may be dead.
    #[test]
    fn a_link_is_open_once_the_server_has_answered_its_greeting() {
        const HELD: Duration = Duration::from_millis(300);
        let server = Uuid::from_u128(7);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("tcp://{}", listener.local_addr().expect("an address"));
        let dialer = Dialer {
            me: Uuid::from_u128(1),
            limits: Limits::for_payloads(1000),
            credentials: None,
            home: None,
            metrics: Arc::default(),
        };
        let began = Instant::now();
        let (opened, ()) = block_on(async {
            let (answers, mut router) = zmq::listen(listener).await.expect("a router");
            let greeting = bytes::Bytes::from(Answer::greeting(server).encode());
            let serving = async {
                for held in [Duration::ZERO, HELD] {
                    let RouterEvent::Message(connection, _) = router.recv().await else {
                        panic!("the connection ended")
                    };
                    timer::sleep(held).await;
                    let sending = answers.send(&connection, vec![greeting.clone()]);
                    assert!(sending.is_none(), "sent at once");
                }
            };
            let opening = dialer.open(&endpoint, server, Duration::from_secs(20));
            // Asked while the server still runs.
            let opening = opening.map(|link| (link.map(|link| link.is_open()), began.elapsed()));
            join(opening, serving).await
        });
        let (is_open, took) = opened;
        assert!(is_open.expect("it is opened"));
        assert!(took >= HELD, "{took:?}");
    }

    #[test]
    fn the_certificate_must_be_valid_for_the_host() {
        for (address, wanted) in [
            ("10.0.0.1:5555", "10.0.0.1"),
            ("db.example:5555", "db.example"),
            ("[::1]:5555", "::1"),
            ("db", "db"),
        ] {
            assert_eq!(host(address), wanted);
        }
    }

    #[test]
    fn only_refusals_by_all_usable_addresses_prove_a_host_gone() {
        use OpenError::{AllFailed, Failed, NoRoute, Refused, Silent};
        let time = Duration::from_secs(2);
        let (v4, other, v6) = ("10.0.0.1:5", "10.0.0.2:5", "[2001:db8::1]:5");
        let all = |list: &[(&str, OpenError)]| {
            AllFailed(
                list.iter()
                    .map(|(at, error)| (at.parse().expect("an address"), error.clone()))
                    .collect(),
            )
        };
        for (failures, gone, passing) in [
            (vec![(v4, Refused), (v6, Refused)], true, false),
            (
                vec![(v4, Refused), (v6, OpenError::Impostor(Uuid::nil()))],
                true,
                false,
            ),
            (vec![(v4, Refused), (other, Silent(time))], false, true),
            (
                vec![(v4, Refused), (other, Failed("too many open files".into()))],
                false,
                false,
            ),
            (
                vec![(v6, NoRoute("network unreachable".into())), (v4, Refused)],
                true,
                false,
            ),
            (
                vec![
                    (v4, Refused),
                    (other, NoRoute("network unreachable".into())),
                ],
                false,
                false,
            ),
            (
                vec![
                    (v4, NoRoute("network unreachable".into())),
                    (v6, NoRoute(String::new())),
                ],
                false,
                false,
            ),
        ] {
            let error = all(&failures);
            assert_eq!(
                (error.proves_gone(), error.is_passing()),
                (gone, passing),
                "{error}"
            );
        }
        assert_eq!(
            all(&[(v4, Refused), (other, Silent(time))]).to_string(),
            "10.0.0.1:5: connection refused; 10.0.0.2:5: no answer within 2s"
        );
    }
}
