//! The settings of the connection to etcd.

use crate::io::tls::EtcdTls;
use std::{fmt, io, sync::Arc, time::Duration};

/// The endpoints of etcd, the credentials, and the timeouts.
#[derive(Clone)]
pub(crate) struct EtcdSettings {
    /// The endpoints, as `http://host:port`, `https://host:port` or `host:port`. At least one.
    pub endpoints: Vec<String>,
    /// Name and password of a user of etcd, when its authentication is on. Not in the endpoints,
    /// which are logged.
    pub user: Option<(String, String)>,
    /// The TLS material for `https` endpoints. All endpoints must have the same scheme. It is read
    /// again for each connection, because certificates are rotated at run time; if that fails, the
    /// last one is used.
    pub tls: Option<TlsSource>,
    /// How long one endpoint may take to answer one request. If all endpoints are silent, a request
    /// takes this times their number.
    pub request_timeout: Duration,
    /// How long another cluster must have answered, and the known one not, until it is accepted as
    /// its successor. By then every lease must be lost.
    pub cluster_lost_after: Duration,
}

impl EtcdSettings {
    /// Long enough for an election among etcd's members to end before the next endpoint is tried,
    /// short enough for three silent members to be tried within a lease of 10 s.
    pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

    /// Creates settings for these endpoints, without user and TLS.
    pub(crate) fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            user: None,
            tls: None,
            request_timeout: Self::REQUEST_TIMEOUT,
            cluster_lost_after: Duration::from_secs(10),
        }
    }

    /// Fails for settings that cannot work, or would expose a password.
    pub(super) fn check(&self) -> io::Result<()> {
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if self.endpoints.is_empty() {
            return refuse(
                "no etcd endpoint given: name at least one, such as http://127.0.0.1:2379",
            );
        }
        if self.endpoints.iter().any(|endpoint| endpoint.contains('@')) {
            return refuse("an etcd endpoint contains an '@': set user and password separately");
        }
        if self.tls.is_some()
            && self
                .endpoints
                .iter()
                .any(|endpoint| endpoint.starts_with("http://"))
        {
            return refuse(
                "TLS is configured for etcd, but an endpoint begins with http://: write https://",
            );
        }
        if self.request_timeout.is_zero() {
            return refuse(
                "the request timeout for etcd is zero: nothing could ever be answered in time",
            );
        }
        Ok(())
    }
}

/// Does not show the password.
impl fmt::Debug for EtcdSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdSettings")
            .field("endpoints", &self.endpoints)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("tls", &self.tls.is_some())
            .field("request_timeout", &self.request_timeout)
            .field("cluster_lost_after", &self.cluster_lost_after)
            .finish()
    }
}

/// Returns the current TLS material.
pub(crate) type TlsSource = Arc<dyn Fn() -> io::Result<EtcdTls> + Send + Sync>;
