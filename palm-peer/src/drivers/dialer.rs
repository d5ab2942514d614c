//! How links are opened: to whoever listens at an endpoint, if it proves to be who is meant.

use crate::{
    Options,
    decisions::zmtp::frames::Limits,
    drivers::link::{JobSinks, Link},
    facts::message::{self, Answer},
    ports::{
        dealer::{self, End},
        runtime::{self, TcpStream},
        timer,
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
    /// It did not get that far; nothing is proven.
    Failed(String),
}

impl OpenError {
    /// Whether this proves that the process that used to answer there is gone.
    #[must_use]
    pub fn proves_gone(&self) -> bool {
        matches!(self, Self::Refused | Self::Impostor(_))
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Impostor(other) => write!(f, "server {other} answers there"),
            Self::Failed(reason) => f.write_str(reason),
        }
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

/// Opens links in the name of one client or server.
#[derive(Debug, Clone)]
pub struct Dialer {
    me: Uuid,
    limits: Limits,
}

impl Dialer {
    /// Opens links in the name of `me`.
    pub fn new(me: Uuid, options: &Options) -> Self {
        Self { me, limits: Limits::for_payloads(options.max_payload) }
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
            .unwrap_or_else(|_| Err(OpenError::Failed(format!("no answer within {time:?}"))))
    }

    async fn open_unbounded(&self, endpoint: &str, server: Uuid, jobs: JobSinks) -> Result<Arc<Link>, OpenError> {
        let address = endpoint.strip_prefix("tcp://").unwrap_or(endpoint);
        runtime::prepare();
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let opened = dealer::open(Box::new(tcp.clone()), Box::new(tcp), self.limits).await;
        let (sender, mut receiver, writer) = opened.map_err(|error| OpenError::Failed(error.to_string()))?;
        runtime::spawn(writer.run());
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
            Some(answer) if answer.server == server => Ok(Link::start(self.me, jobs, sender, receiver)),
            Some(answer) => Err(OpenError::Impostor(answer.server)),
            None => Err(OpenError::Failed("what listens there is no PALM server".into())),
        }
    }
}
