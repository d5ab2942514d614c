//! The client of one endpoint.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, KvClient, TlsOptions, WatchClient};

use super::{error::describe, failover::Pool, life::Life, watch_stream::WatchStream};

/// A host that is down does not answer at all: known sooner than by the request's own limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often an open stream is tried with a ping. etcd closes the connection of who pings more often than its
/// `--grpc-keepalive-min-time`, 5 s unless set (seen: with pings every second each watch broke after 4 s); nor does it
/// bear pings when no stream is open, so there are none then.
const PING_PERIOD: Duration = Duration::from_secs(6);

/// How long the answer to a ping may take before the connection is given up.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection without a stream may be idle before the system checks that the other host is still there: pings
/// are sent over streams only.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The largest answer we take. The crate's 4 MiB would be too little for a list of a few thousand servers.
const MAX_ANSWER: usize = 256 << 20;

/// A client of one endpoint.
#[derive(Clone)]
pub(super) struct Connection {
    client: Client,
    pub(super) life: Life,
    pub(super) watches: Arc<WatchStream>,
    pub(super) place: Place,
}

/// Which client of which endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) endpoint: usize,
    generation: u64,
}

impl Connection {
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(super) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_ANSWER)
    }

    pub(super) fn watch(&self) -> WatchClient {
        self.client.watch_client().max_decoding_message_size(MAX_ANSWER)
    }
}

impl Pool {
    /// The endpoint's client, and whether it is new.
    pub(super) async fn connection(&self, index: usize) -> Result<(Connection, bool), etcd_client::Error> {
        let endpoint = &self.endpoints[index];
        if let Some(connection) = endpoint.connected() {
            return Ok((connection, false));
        }
        let _connecting = endpoint.connecting.lock().await;
        if let Some(connection) = endpoint.connected() {
            return Ok((connection, false));
        }
        // Boxed: every request would have room for it.
        let client = Box::pin(self.connect(&endpoint.url)).await?;
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let place = Place { endpoint: index, generation };
        let connection = Connection { client, life: Life::new(), watches: Arc::default(), place };
        *endpoint.slot() = Some(connection.clone());
        Ok((connection, true))
    }

    /// A new client, authenticated if there is a user. Without one nothing is sent yet.
    async fn connect(&self, url: &str) -> Result<Client, etcd_client::Error> {
        let plain = self.options_now();
        let Some((name, password)) = &self.user else {
            return Client::connect([url], Some(plain)).await;
        };
        let options = plain.clone().with_user(name, password);
        match Client::connect([url], Some(options)).await {
            // As etcd's own client does: a user may be configured before authentication is switched on.
            Err(error) if describe(&error).contains("authentication is not enabled") => {
                Client::connect([url], Some(plain)).await
            }
            result => result,
        }
    }

    /// The options, with the certificates of this moment.
    fn options_now(&self) -> ConnectOptions {
        let Some((source, last)) = &self.tls else { return self.options.clone() };
        // Replaced as a whole, so that a panic elsewhere cannot have left it half written.
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        match source() {
            Ok(tls) => *last = Some(tls),
            Err(error) => {
                if let Some(suppressed) = self.history.should_log("reading certificates".into()) {
                    log::warn!(
                        "the certificates for etcd cannot be read again, the old ones are used: {error}{suppressed}"
                    );
                }
            }
        }
        let Some(tls) = last.clone() else { return self.options.clone() };
        let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(tls.ca));
        if let Some((certificate, key)) = tls.identity {
            options = options.identity(Identity::from_pem(certificate, key));
        }
        self.options.clone().with_tls(options)
    }
}

/// How to connect, but for TLS and user.
pub(super) fn options() -> ConnectOptions {
    ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(PING_PERIOD, PING_TIMEOUT)
        .with_keep_alive_while_idle(false)
        .with_tcp_keepalive(TCP_KEEP_ALIVE)
        // A member that lost touch with the others would else serve a watch that is silent for ever.
        .with_require_leader(true)
}
