//! TLS towards etcd. The connections are made by etcd's client, which does not report why one
//! fails: so the certificates are checked before it gets them, and when a connection fails, a
//! handshake of our own finds the cause.

use super::{
    credentials::provider,
    failure::{TlsError, TlsErrorKind, certificate_message},
    pem::{BadCredentials, PemFiles, check_key},
};
use crate::io::{connect::connect, executor::TcpStream, timer::timeout};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, io::AsyncRead, io::AsyncWrite};
use futures_rustls::{
    TlsConnector,
    pki_types::{CertificateDer, ServerName, UnixTime},
    rustls::{
        AlertDescription, CertificateError, ClientConfig, Error, RootCertStore,
        client::{Resumption, verify_server_cert_signed_by_trust_anchor},
        server::ParsedCertificate,
    },
};
use std::{fmt, io, sync::Arc, time::Duration};

/// How long the diagnosis may take: the server answered a moment ago.
const TIME: Duration = Duration::from_secs(1);

/// The preface of an HTTP/2 client, with empty settings: etcd does not answer a silent client.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// How its answer begins: the header of its settings, from the type on.
const SETTINGS: u8 = 4;

/// The TLS material for etcd, of checked files. All parts are PEM.
#[derive(Clone)]
pub(crate) struct EtcdTls {
    /// The authorities that etcd's certificate must be signed by.
    pub ca: Vec<u8>,
    /// Our certificate and its private key, in case etcd requires one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    config: Arc<ClientConfig>,
}

/// Does not show the key.
impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdTls")
            .field("identity", &self.identity.is_some())
            .finish_non_exhaustive()
    }
}

impl EtcdTls {
    /// Checks the files. Fails when one is invalid or does not match the others, or our
    /// certificate has expired.
    pub(crate) fn new(files: &PemFiles) -> Result<Self, BadCredentials> {
        let roots = files.ca.roots()?;
        let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions();
        let broken = |error: Error| files.ca.bad(format_args!("cannot be used: {error}"));
        let builder = builder
            .map_err(broken)?
            .with_root_certificates(roots.clone());
        let mut config = match &files.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = cert.chain()?;
                check_key(cert, &chain, key, &provider())?;
                check_time(&chain, &roots).map_err(|message| cert.bad(message))?;
                let config = builder.with_client_auth_cert(chain, key.private_key()?);
                config.map_err(|error| key.bad(format_args!("cannot be used: {error}")))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        let identity = files
            .identity
            .as_ref()
            .map(|(cert, key)| (cert.text.clone(), key.text.clone()));
        Ok(Self {
            ca: files.ca.text.clone(),
            identity,
            config: Arc::new(config),
        })
    }
}

/// Checks that our certificate is within its validity. Its authority may be unknown here: etcd may
/// use another one for clients than for itself.
fn check_time(chain: &[CertificateDer<'_>], roots: &RootCertStore) -> Result<(), String> {
    let Some((own, between)) = chain.split_first() else {
        return Ok(());
    };
    // The chain has been parsed already.
    let Ok(parsed) = ParsedCertificate::try_from(own) else {
        return Ok(());
    };
    let algorithms = provider().signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(
        &parsed,
        roots,
        between,
        UnixTime::now(),
        algorithms,
    ) {
        Err(Error::InvalidCertificate(
            error @ (CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }),
        )) => Err(format!("cannot be used: {}", certificate_message(&error))),
        _ => Ok(()),
    }
}

/// Returns why a connection to etcd failed, if TLS is the cause. Makes one or two connections.
pub(crate) async fn diagnose(url: &str, tls: Option<&EtcdTls>) -> Option<String> {
    timeout(TIME, find_out(url, tls)).await.ok().flatten()
}

async fn find_out(url: &str, tls: Option<&EtcdTls>) -> Option<String> {
    let Some(authority) = url.strip_prefix("https://") else {
        return find_out_of_plain(url.strip_prefix("http://").unwrap_or(url)).await;
    };
    let tls = tls?;
    let (host, port) = host_and_port(authority, 443)?;
    let tcp = connect(host, port, TIME).await.ok()?;
    let error = greet(&tls.config, tcp, host).await.err()?;
    if error.kind() == io::ErrorKind::UnexpectedEof
        || error.kind() == io::ErrorKind::ConnectionReset
    {
        // An etcd without TLS, which expects HTTP, does the same.
        let tcp = connect(host, port, TIME).await.ok()?;
        let plain = answers_http(tcp).await;
        return plain.then(|| NO_TLS.to_owned());
    }
    message(&error, tls)
}

const NO_TLS: &str =
    "it does not use TLS: write http:// in its URL, or start etcd with --cert-file and --key-file";

/// Returns whether an endpoint with an `http://` URL uses TLS: any TLS record shows that.
async fn find_out_of_plain(authority: &str) -> Option<String> {
    let (host, port) = host_and_port(authority, 80)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions();
    let config = builder
        .ok()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let tcp = connect(host, port, TIME).await.ok()?;
    let speaks = match greet(&Arc::new(config), tcp, host).await {
        Ok(()) => true,
        Err(error) => matches!(
            error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<Error>()),
            Some(
                Error::InvalidCertificate(_) | Error::PeerIncompatible(_) | Error::AlertReceived(_)
            )
        ),
    };
    speaks.then(|| {
        "it uses TLS: write https:// in its URL, and name its authority with --cacert".to_owned()
    })
}

/// Performs a handshake and waits for the first byte: with TLS 1.3 etcd checks our certificate
/// after we are done.
async fn greet(config: &Arc<ClientConfig>, tcp: TcpStream, host: &str) -> io::Result<()> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut stream = TlsConnector::from(Arc::clone(config))
        .connect(name, tcp)
        .await?;
    answer(&mut stream, &mut [0; 1]).await
}

async fn answers_http(mut tcp: TcpStream) -> bool {
    let mut head = [0; 4];
    answer(&mut tcp, &mut head).await.is_ok() && (head == *b"HTTP" || head[3] == SETTINGS)
}

async fn answer(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    into: &mut [u8],
) -> io::Result<()> {
    // A peer that has sent its alert may have closed the connection; the alert can still be read.
    let written = async {
        stream.write_all(HTTP2).await?;
        stream.flush().await
    };
    let written: io::Result<()> = written.await;
    stream
        .read_exact(into)
        .await
        .map_err(|error| match written {
            Err(earlier) if !is_tls(&error) => earlier,
            _ => error,
        })
}

fn is_tls(error: &io::Error) -> bool {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
        .is_some()
}

fn message(error: &io::Error, tls: &EtcdTls) -> Option<String> {
    let failure = TlsError::from(error);
    match (failure.kind, tls_alert(error)) {
        (TlsErrorKind::NotTls, _) => Some(NO_TLS.to_owned()),
        (TlsErrorKind::Distrusted, alert) => Some(distrust_message(alert, tls.identity.is_some())),
        (TlsErrorKind::Broken, None) if !is_tls(error) => None,
        _ => Some(failure.to_string()),
    }
}

fn tls_alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// Returns why etcd rejected our certificate, as far as its alert says.
fn distrust_message(alert: Option<AlertDescription>, shown: bool) -> String {
    if !shown || alert == Some(AlertDescription::CertificateRequired) {
        return "it requires a client certificate, and got none: pass --cert and --key".to_owned();
    }
    let why = match alert {
        Some(AlertDescription::UnknownCA) => "no authority in its --trusted-ca-file has signed it",
        Some(AlertDescription::CertificateExpired) => "it has expired, or is not valid yet",
        _ => {
            "etcd's log says why; it must allow clientAuth, and be of an authority in etcd's --trusted-ca-file"
        }
    };
    format!("it does not accept our certificate in cert: {why}")
}

fn host_and_port(authority: &str, default: u16) -> Option<(&str, u16)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, default),
    };
    Some((host.trim_start_matches('[').trim_end_matches(']'), port))
}
