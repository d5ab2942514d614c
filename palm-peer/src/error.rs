//! The errors of the public API.

use crate::io::etcd::{EtcdError, EtcdErrorKind};
use palm_proto::{
    call::FailedCall,
    config::InvalidSetting,
    types::message::{CallErrorKind, CallFailure},
};
use std::{error, fmt};
use uuid::Uuid;

/// The kind of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting, or the definition of a server, is invalid. Nothing was done.
    InvalidConfig,
    /// The address to listen on cannot be bound. Nothing was written to etcd.
    Bind,
    /// etcd cannot be reached at any endpoint.
    EtcdUnreachable,
    /// etcd refused the request: wrong password, missing permission, or a limit.
    EtcdRefused,
    /// An administrator removed this server from the mesh. It stays out until its
    /// process is restarted.
    Evicted,
    /// The peer is already being served, or has left.
    AlreadyServing,
    /// No such server is registered.
    NotFound,
    /// The operation was done, but etcd is out of space and could not record it: the message
    /// says what follows.
    NotRecorded,
    /// Tasks of the library panicked repeatedly, and the server left the mesh. Restart the process.
    TaskFailed,
    /// The system refused a resource, such as a thread.
    Io,
    /// What was waited for did not happen in time.
    TimedOut,
}

/// Why joining, serving or administration failed: a kind for programs, a message for people, and
/// the cause, if there is one.
///
/// `Display` prints the message alone, and [`source`](error::Error::source) returns the cause, for
/// reporters that print the whole chain. [`Error::report`] prints it on one line.
///
/// ```
/// use palm_peer::{Config, ErrorKind, Server};
///
/// let joining = Server::new("no name").join(Config::default());
/// let error = palm_peer::block_on(joining).expect_err("a name has no spaces");
/// assert_eq!(error.kind(), ErrorKind::InvalidConfig);
/// eprintln!("{}", error.report());
/// ```
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn error::Error + Send + Sync>>,
    /// Whether the content of a file is invalid, which may differ at the next start.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    of_files: bool,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
            of_files: false,
        }
    }

    pub(crate) fn caused(mut self, source: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Marks the error as one of a TLS file, and not of the settings that name it.
    pub(crate) fn of_files(mut self) -> Self {
        self.of_files = true;
        self
    }

    #[cfg(feature = "cli")]
    pub(crate) fn is_about_files(&self) -> bool {
        self.of_files
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the message and all causes on one line, separated by colons, for a log line.
    #[must_use]
    pub fn report(&self) -> String {
        let mut report = self.message.clone();
        let mut cause = error::Error::source(self);
        while let Some(error) = cause {
            report.push_str(": ");
            report.push_str(&error.to_string());
            cause = error.source();
        }
        report
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The kind and the [report](Error::report), for a `main` that returns the error.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.report())
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<InvalidSetting> for Error {
    fn from(setting: InvalidSetting) -> Self {
        Self::new(ErrorKind::InvalidConfig, "invalid configuration").caused(setting)
    }
}

impl From<EtcdError> for Error {
    fn from(error: EtcdError) -> Self {
        let kind = match error.kind() {
            EtcdErrorKind::Unreachable | EtcdErrorKind::Tls => ErrorKind::EtcdUnreachable,
            _ => ErrorKind::EtcdRefused,
        };
        Self::new(kind, error.to_string())
    }
}

/// Why a call failed.
///
/// ```no_run
/// # async fn example(client: palm_peer::Client) {
/// use palm_peer::CallErrorKind;
///
/// match client.call("text.shout", "hello").await {
///     Ok(answer) => println!("{answer:?}"),
///     Err(error) if error.kind() == CallErrorKind::TimedOut => println!("too slow"),
///     // Says which server, if the call went to one.
///     Err(error) => println!("{error}"),
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallError {
    failure: CallFailure,
    server: Option<Uuid>,
}

impl CallError {
    pub(crate) fn new(failure: CallFailure, server: Option<Uuid>) -> Self {
        Self { failure, server }
    }

    pub(crate) fn of_call(failed: FailedCall) -> Self {
        Self::new(failed.failure, failed.server)
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> CallErrorKind {
        self.failure.kind
    }

    /// Returns the message of the server or client that found the error.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.failure.message
    }

    /// Returns the code of an [`ApplicationError`](crate::ApplicationError) of the function.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.failure.code.as_deref()
    }

    /// Returns the data of an [`ApplicationError`](crate::ApplicationError) of the function.
    #[must_use]
    pub fn data(&self) -> Option<&serde_json::Value> {
        self.failure.data.as_deref()
    }

    /// Returns the server that the call went to, if it went to one.
    #[must_use]
    pub fn server(&self) -> Option<Uuid> {
        self.server
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.failure.title(), self.message())?;
        self.server
            .map_or(Ok(()), |uuid| write!(f, " (server {uuid})"))
    }
}

impl error::Error for CallError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn display_prints_the_message_alone_and_report_the_causes() {
        let error = Error::new(ErrorKind::Bind, "cannot bind 127.0.0.1:80")
            .caused(io::Error::other("denied"));
        assert_eq!(error.to_string(), "cannot bind 127.0.0.1:80");
        assert_eq!(error.report(), "cannot bind 127.0.0.1:80: denied");
        assert_eq!(
            format!("{error:?}"),
            "Bind: cannot bind 127.0.0.1:80: denied"
        );
        assert!(error::Error::source(&error).is_some());
    }
}
