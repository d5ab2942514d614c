//! How links are opened: to whoever listens at an endpoint, if it proves to be who is meant.

use crate::{
    Options,
    decisions::zmtp::frames::Limits,
    drivers::{
        link::{Link, Where},
        sinks::JobSinks,
    },
    facts::message::{self, Answer},
    ports::{
        dealer::{self, End, ReadHalf, WriteHalf},
        etcd::Etcd,
        handshake::Unopened,
        runtime::{self, TcpStream},
        tcp_state::Ends,
        timer,
        tls::{self, Credentials},
    },
};
use std::{fmt, io, sync::Arc, time::Duration};
use uuid::Uuid;

/// Why a link could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenError {
    /// No process listens there.
    Refused,
    /// Another server listens there.
    Impostor(Uuid),
    /// Nobody answered for so long; nothing is proven.
    Silent(Duration),
    /// It did not get that far; nothing is proven.
    Failed(String),
}

impl OpenError {
    /// Whether this proves that the process that used to answer there is gone.
    #[must_use]
    pub fn proves_gone(&self) -> bool {
        matches!(self, Self::Refused | Self::Impostor(_))
    }

    /// Whether it may answer in a while: who is silent may have much to do.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Silent(_))
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Impostor(other) => write!(f, "server {other} answers there"),
            Self::Silent(time) => write!(f, "no answer within {time:?}"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

impl From<tls::Failure> for OpenError {
    fn from(failure: tls::Failure) -> Self {
        Self::Failed(failure.to_string())
    }
}

impl From<Unopened> for OpenError {
    fn from(unopened: Unopened) -> Self {
        Self::Failed(match &unopened {
            // What the server thinks of our certificate comes with its first bytes.
            Unopened::Broken(error) => tls::explain(error).map_or_else(|| unopened.to_string(), |why| why.to_string()),
            Unopened::Refused(refusal) => refusal.to_string(),
        })
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// More than the log of a server can say between two probes, in bytes.
const LONGEST_DIGEST: usize = 4 * 1024 * 1024;

/// Opens links in the name of one client or server.
#[derive(Clone)]
pub struct Dialer {
    me: Uuid,
    limits: Limits,
    credentials: Option<Arc<Credentials>>,
    /// On whose thread the links' own tasks run; `None` is the library's executor, which functions may share.
    home: Option<Etcd>,
}

impl Dialer {
    /// Opens links in the name of `me`, over TLS if there are credentials.
    pub fn new(me: Uuid, options: &Options, credentials: Option<Arc<Credentials>>) -> Self {
        Self { me, limits: Limits::for_payloads(options.max_payload), credentials, home: None }
    }

    /// As this one, for whoever looks after other servers: answers are shorter, and links live on etcd's thread, so that a
    /// function that holds up the executor does not make all others look mute.
    #[must_use]
    pub fn for_probes(&self, etcd: &Etcd) -> Self {
        Self { limits: Limits::for_payloads(LONGEST_DIGEST), home: Some(etcd.clone()), ..self.clone() }
    }

    /// Who opens them.
    pub fn me(&self) -> Uuid {
        self.me
    }

    /// Connects to `endpoint` (`tcp://host:port`) and has `server` prove that it is behind it.
    ///
    /// # Errors
    /// When nobody, somebody else, or nothing that answers within `time` is there.
    pub async fn open(&self, endpoint: &str, server: Uuid, time: Duration) -> Result<Arc<Link>, OpenError> {
        self.open_for_jobs(endpoint, server, time, JobSinks::default()).await
    }

    /// As [`Dialer::open`], with answers to messages of jobs going to `jobs`.
    ///
    /// # Errors
    /// As [`Dialer::open`].
    pub async fn open_for_jobs(
        &self,
        endpoint: &str,
        server: Uuid,
        time: Duration,
        jobs: JobSinks,
    ) -> Result<Arc<Link>, OpenError> {
        timer::timeout(time, self.open_unbounded(endpoint, server, jobs))
            .await
            .unwrap_or_else(|_| Err(OpenError::Silent(time)))
    }

    async fn open_unbounded(&self, endpoint: &str, server: Uuid, jobs: JobSinks) -> Result<Arc<Link>, OpenError> {
        let address = endpoint.strip_prefix("tcp://").unwrap_or(endpoint);
        runtime::prepare();
        let tcp = TcpStream::connect(address).await?;
        runtime::tune(&tcp)?;
        let ends = Ends::of(&tcp)?;
        let (read, write): (ReadHalf, WriteHalf) = match &self.credentials {
            Some(credentials) => {
                let stream = credentials.connect(tcp, host(address)).await?;
                (Box::new(stream.clone()), Box::new(stream))
            }
            None => (Box::new(tcp.clone()), Box::new(tcp)),
        };
        let (sender, mut receiver, writer) = dealer::open(read, write, self.limits).await?;
        self.spawn(writer.run());
        sender
            .send(&[message::encode_hello(self.me).into()], true)
            .map_err(|error| OpenError::Failed(error.to_string()))?;
        let frames = receiver.receive().await.map_err(|end| {
            OpenError::Failed(match end {
                End::Closed => "the connection ended before a greeting".into(),
                End::Refused(refusal) => refusal.to_string(),
            })
        })?;
        match frames.first().and_then(|header| Answer::decode(header)) {
            Some(answer) if answer.server == server => {
                let (link, receiving) = Link::new(self.me, jobs, sender, receiver);
                self.spawn(receiving);
                self.spawn(link.watching(Where { server, ends }));
                Ok(link)
            }
            Some(answer) => Err(OpenError::Impostor(answer.server)),
            None => Err(OpenError::Failed("what listens there is no PALM server".into())),
        }
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        match &self.home {
            Some(etcd) => drop(etcd.spawn(future)),
            None => runtime::spawn(future),
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
    fn the_host_is_what_a_certificate_must_be_for() {
        for (address, wanted) in
            [("10.0.0.1:5555", "10.0.0.1"), ("db.example:5555", "db.example"), ("[::1]:5555", "::1"), ("db", "db")]
        {
            assert_eq!(host(address), wanted);
        }
    }
}
