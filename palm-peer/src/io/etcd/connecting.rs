//! Opens the client of an endpoint, once for all concurrent requests.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use etcd_client::{Client, ConnectOptions};

use super::{
    connection::{Connection, ConnectionId},
    endpoint_pool::Pool,
    error::describe,
    life::Life,
};
use crate::io::tls::EtcdTls;

impl Pool {
    /// Returns the endpoint's client, and whether it is new.
    pub(super) async fn connection(
        &self,
        index: usize,
    ) -> Result<(Connection, bool), etcd_client::Error> {
        let endpoint = &self.endpoints[index];
        if let Some(connection) = endpoint.connected() {
            return Ok((connection, false));
        }
        let _connecting = endpoint.connecting.lock().await;
        if let Some(connection) = endpoint.connected() {
            return Ok((connection, false));
        }
        // Boxed, so that not every request future contains it.
        let client = Box::pin(self.connect(&endpoint.url)).await?;
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let place = ConnectionId {
            endpoint: index,
            generation,
        };
        let connection = Connection {
            client,
            life: Life::new(),
            watches: Arc::default(),
            place,
        };
        *endpoint.slot() = Some(connection.clone());
        Ok((connection, true))
    }

    /// Creates a client, authenticated if there is a user. Without a user nothing is sent yet.
    async fn connect(&self, url: &str) -> Result<Client, etcd_client::Error> {
        let plain = self.options_now();
        let Some((name, password)) = &self.user else {
            return Client::connect([url], Some(plain)).await;
        };
        let options = plain.clone().with_user(name, password);
        match Client::connect([url], Some(options)).await {
            // As etcd's own client: a user may be configured before authentication is enabled.
            Err(error) if describe(&error).contains("authentication is not enabled") => {
                Client::connect([url], Some(plain)).await
            }
            result => result,
        }
    }

    /// Returns the options, with the current certificates.
    fn options_now(&self) -> ConnectOptions {
        let Some((source, last)) = &self.tls else {
            return self.options.clone();
        };
        // Replaced as a whole, so a panic cannot leave it half written.
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        match source() {
            Ok(tls) => *last = Some(tls),
            Err(error) => {
                if let Some(suppressed) = self.history.should_log("reading certificates".into()) {
                    log::warn!(
                        "the certificates for etcd cannot be reloaded; the old ones stay in use: {error}{suppressed}"
                    );
                }
            }
        }
        let options = self.options.clone();
        last.clone()
            .map_or(options.clone(), |tls| with_tls(options, tls))
    }
}

#[cfg(feature = "tls")]
fn with_tls(options: ConnectOptions, tls: EtcdTls) -> ConnectOptions {
    use etcd_client::{Certificate, Identity, TlsOptions};
    let mut parts = TlsOptions::new().ca_certificate(Certificate::from_pem(tls.ca));
    if let Some((certificate, key)) = tls.identity {
        parts = parts.identity(Identity::from_pem(certificate, key));
    }
    options.with_tls(parts)
}

/// There are no certificates without TLS.
#[cfg(not(feature = "tls"))]
fn with_tls(options: ConnectOptions, _: EtcdTls) -> ConnectOptions {
    options
}
