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
};
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
    /// No process listens there.
    Refused,
    /// Another server listens there.
    Impostor(Uuid),
    /// Nobody answered for so long; nothing is proven.
    Silent(Duration),
    /// This host has no route to addresses of that kind, such as IPv6; nothing is proven.
    NoRoute(String),
    /// It did not get that far; nothing is proven.
    Failed(String),
    /// The host has several addresses, and each failed in its own way.
    AllFailed(Vec<(SocketAddr, OpenError)>),
    /// This process lacks something that it needs to connect, such as a file descriptor; nothing is said about the other side.
    Local(String),
}

impl OpenError {
    /// Whether this proves that the process that used to answer there is gone.
    pub(crate) fn proves_gone(&self) -> bool {
        match self {
            Self::Refused | Self::Impostor(_) => true,
            Self::Silent(_) | Self::NoRoute(_) | Self::Failed(_) | Self::Local(_) => false,
            Self::AllFailed(failures) => {
                // A family that this host cannot use says nothing, so the other one decides.
                let usable = |v6| failures.iter().any(|(a, e)| a.is_ipv6() == v6 && !matches!(e, Self::NoRoute(_)));
                let mut counted = failures.iter().filter(|(address, _)| usable(address.is_ipv6())).peekable();
                counted.peek().is_some() && counted.all(|(_, error)| error.proves_gone())
            }
        }
    }

    /// Whether the failure is this process's own, and says nothing about the other side.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Local(_) => true,
            Self::AllFailed(failures) => failures.iter().any(|(_, error)| error.is_local()),
            _ => false,
        }
    }

    /// Whether it may answer in a while: who is silent may have much to do.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Silent(_) => true,
            Self::AllFailed(failures) => failures.iter().any(|(_, error)| error.is_passing()),
            _ => false,
        }
    }

    /// Of a host's addresses, of which at least one was tried.
    fn of_all(mut failures: Vec<(SocketAddr, Self)>) -> Self {
        if failures.len() > 1 {
            return Self::AllFailed(failures);
        }
        failures.pop().map_or_else(|| Self::Failed("it has no address".into()), |(_, error)| error)
    }

    /// Of an address that does not let us in.
    fn of_connect(address: SocketAddr, error: Option<io::Error>, time: Duration) -> Self {
        let Some(error) = error else { return Self::Silent(time) };
        match error.kind() {
            io::ErrorKind::NetworkUnreachable => Self::NoRoute(error.to_string()),
            // So says a system whose IPv6 is switched off. Of IPv4, it says that all ports are in use.
            io::ErrorKind::AddrNotAvailable if address.is_ipv6() => Self::NoRoute(error.to_string()),
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
            Self::NoRoute(reason) | Self::Failed(reason) | Self::Local(reason) => f.write_str(reason),
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
            // What the server thinks of our certificate comes with its first bytes.
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

/// More than the log of a server can say between two probes, in bytes.
const LONGEST_DIGEST: usize = 4 * 1024 * 1024;

/// Opens links in the name of one client or server.
#[derive(Clone)]
pub(crate) struct Dialer {
    me: Uuid,
    limits: Limits,
    credentials: Option<Arc<Credentials>>,
    /// On whose thread the links' own tasks run; `None` is the library's executor, which functions may share.
    home: Option<Etcd>,
}

impl Dialer {
    /// What it speaks TLS with, if it does.
    pub(crate) fn credentials(&self) -> Option<Arc<Credentials>> {
        self.credentials.clone()
    }

    /// Opens links in the name of `me`, over TLS if there are credentials.
    pub(crate) fn new(me: Uuid, config: &ValidConfig, credentials: Option<Arc<Credentials>>) -> Self {
        Self { me, limits: Limits::for_payloads(config.max_payload), credentials, home: None }
    }

    /// Returns a dialer for health checks: answers are shorter, and links live on etcd's thread, so that a function that
    /// blocks the executor does not make all other servers look mute.
    pub(crate) fn for_probes(&self, etcd: &Etcd) -> Self {
        Self { limits: Limits::for_payloads(LONGEST_DIGEST), home: Some(etcd.clone()), ..self.clone() }
    }

    /// Who opens them.
    pub(crate) fn me(&self) -> Uuid {
        self.me
    }

    /// Connects to `endpoint` (`tcp://host:port`) and has `server` prove that it is behind it. All addresses of the host are
    /// tried, also when one lets us in but the server does not prove to be there. Fails when nobody, somebody else, or nothing
    /// that answers within `time` is there.
    pub(crate) async fn open(&self, endpoint: &str, server: Uuid, time: Duration) -> Result<Arc<Link>, OpenError> {
        self.open_for_jobs(endpoint, server, time, ReplyRouter::default()).await
    }

    /// As [`Dialer::open`], with answers to messages of jobs going to `jobs`.
    pub(crate) async fn open_for_jobs(
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
                    failures.extend(failed.into_iter().map(|(at, error)| (at, OpenError::of_connect(at, error, time))));
                    return Err(OpenError::of_all(failures));
                }
            };
            left.retain(|other| *other != at);
            let now = Instant::now();
            // Who lets us in and then says nothing must leave time for the other addresses.
            let until = if left.is_empty() { deadline } else { now + deadline.saturating_duration_since(now) / 2 };
            let opening = timer::timeout_at(until, self.open_over(tcp, host(address), server, jobs.clone())).await;
            match opening.unwrap_or(Err(OpenError::Silent(time))) {
                Ok(link) => return Ok(link),
                Err(error) => failures.push((at, error)),
            }
            if left.is_empty() {
                return Err(OpenError::of_all(failures));
            }
        }
    }

    async fn open_over(&self, tcp: Tcp, host: &str, server: Uuid, jobs: ReplyRouter) -> Result<Arc<Link>, OpenError> {
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
        say(message::encode_identify(self.me)).map_err(|error| OpenError::Failed(error.to_string()))?;
        let frames = receiver.receive().await.map_err(|end| {
            OpenError::Failed(match end {
                ConnectionEnd::Closed => "the connection ended before a greeting".into(),
                ConnectionEnd::Refused(reason) => reason.to_string(),
            })
        })?;
        match frames.first().and_then(|header| Answer::decode(header)) {
            Some(answer) if answer.server == server => {
                // From here on it may send our answers over this connection.
                say(message::encode_hello(self.me)).map_err(|error| OpenError::Failed(error.to_string()))?;
                let (link, receiving) = Link::new(self.me, jobs, sender, receiver);
                self.spawn(Name::LinkReader, receiving);
                self.spawn(Name::LinkWatch, link.watching(Where { server, ends }));
                Ok(link)
            }
            Some(answer) => Err(OpenError::Impostor(answer.server)),
            None => Err(OpenError::Failed("what listens there is no PALM server".into())),
        }
    }

    fn spawn(&self, name: Name, future: impl Future<Output = ()> + Send + 'static) {
        match &self.home {
            Some(etcd) => drop(etcd.spawn(name, future)),
            None => executor::spawn(name, future),
        }
    }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_must_be_valid_for_the_host() {
        for (address, wanted) in
            [("10.0.0.1:5555", "10.0.0.1"), ("db.example:5555", "db.example"), ("[::1]:5555", "::1"), ("db", "db")]
        {
            assert_eq!(host(address), wanted);
        }
    }

    #[test]
    fn only_refusals_by_all_usable_addresses_prove_a_host_gone() {
        use OpenError::{AllFailed, Failed, NoRoute, Refused, Silent};
        let time = Duration::from_secs(2);
        let (v4, other, v6) = ("10.0.0.1:5", "10.0.0.2:5", "[2001:db8::1]:5");
        let all = |list: &[(&str, OpenError)]| {
            AllFailed(list.iter().map(|(at, error)| (at.parse().expect("an address"), error.clone())).collect())
        };
        for (failures, gone, passing) in [
            (vec![(v4, Refused), (v6, Refused)], true, false),
            (vec![(v4, Refused), (v6, OpenError::Impostor(Uuid::nil()))], true, false),
            (vec![(v4, Refused), (other, Silent(time))], false, true),
            (vec![(v4, Refused), (other, Failed("too many open files".into()))], false, false),
            (vec![(v6, NoRoute("network unreachable".into())), (v4, Refused)], true, false),
            (vec![(v4, Refused), (other, NoRoute("network unreachable".into()))], false, false),
            (vec![(v4, NoRoute("network unreachable".into())), (v6, NoRoute(String::new()))], false, false),
        ] {
            let error = all(&failures);
            assert_eq!((error.proves_gone(), error.is_passing()), (gone, passing), "{error}");
        }
        assert_eq!(
            all(&[(v4, Refused), (other, Silent(time))]).to_string(),
            "10.0.0.1:5: connection refused; 10.0.0.2:5: no answer within 2s"
        );
    }
}
