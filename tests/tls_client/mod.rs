//! A TLS client that is not PALM's.

// Tests fail by panicking.
#![allow(clippy::expect_used)]

use palm_tests::{Certificate, wire::Wire};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use std::{
    io,
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
};

/// Returns the configuration of a client that presents `own` and trusts the authority at `ca`.
pub(crate) fn config(
    ca: &Path,
    own: Option<&Certificate>,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).expect("a certificate"))
        .expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots);
    let Some(own) = own else {
        return Arc::new(builder.with_no_client_auth());
    };
    let chain = vec![CertificateDer::from_pem_file(&own.cert).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(&own.key).expect("a key");
    Arc::new(
        builder
            .with_client_auth_cert(chain, key)
            .expect("a certificate and its key"),
    )
}

/// A connection over TLS.
pub(crate) type Secure = Wire<StreamOwned<ClientConnection, TcpStream>>;

/// Connects over TLS, and performs ZMTP's handshake.
pub(crate) fn dial(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Secure> {
    let tcp = Wire::connect(address)?.stream().try_clone()?;
    let name = ServerName::from(address.ip());
    let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut wire = Wire::over(StreamOwned::new(session, tcp));
    wire.shake_hands()?;
    Ok(wire)
}
