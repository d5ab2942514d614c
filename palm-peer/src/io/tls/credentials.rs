//! Certificates, keys and trusted authorities from files, which are read again when they change.

use super::{
    failure::{TlsError, words_of},
    pem::{BadCredentials, PemFiles, check_key},
    stream::{self, Stream},
    verify::{OwnCertError, Verifier, check_own, expires_by},
};
use crate::io::{executor::TcpStream, tcp::Tcp};
use futures_rustls::{
    TlsAcceptor, TlsConnector,
    pki_types::{CertificateDer, ServerName, UnixTime},
    rustls::{
        CipherSuite, ClientConfig, Error, RootCertStore, ServerConfig, SupportedCipherSuite,
        client::Resumption,
        crypto::{self, CryptoProvider},
        server::NoServerSessionStorage,
        version::TLS13,
    },
};
use palm_proto::certificate_reload::CertificateReload;
use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How many bytes a session encrypts before the socket takes them: more than rustls's default of 64
/// KiB, for fewer system calls.
const WRITE: Option<usize> = Some(128 * 1024);

/// The TLS configurations for new connections.
#[derive(Clone)]
pub(super) struct TlsConfigs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    chain: Arc<[CertificateDer<'static>]>,
    roots: Arc<RootCertStore>,
}

struct Loaded {
    configs: TlsConfigs,
    reload: CertificateReload<PemFiles>,
}

/// Our certificate and its key, and the trusted authorities.
pub(crate) struct Credentials {
    files: PemFiles,
    prefix: String,
    /// The host at which others reach us, for a server.
    host: Option<String>,
    loaded: Mutex<Loaded>,
}

/// Does not show the key.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Checks the files, for the mesh of this prefix, and for a server at `host` if it is one.
    /// Fails when a file is invalid, has expired, does not match the others, or is not valid for
    /// this mesh or host.
    pub(crate) fn new(
        files: PemFiles,
        prefix: &str,
        host: Option<&str>,
    ) -> Result<Self, BadCredentials> {
        let configs = configs(&files, prefix, host)?;
        let reload = CertificateReload::new(files.clone(), Instant::now());
        let loaded = Mutex::new(Loaded { configs, reload });
        Ok(Self {
            files,
            prefix: prefix.to_owned(),
            host: host.map(str::to_owned),
            loaded,
        })
    }

    /// Performs the TLS handshake with a client; both sides authenticate. On failure the client has
    /// got a TLS alert.
    pub(crate) async fn accept(&self, tcp: TcpStream) -> Result<Stream, TlsError> {
        let acceptor = TlsAcceptor::from(self.current().server);
        match acceptor
            .accept_with(stream::Socket::new(tcp), |session| {
                session.set_buffer_limit(WRITE);
            })
            .into_fallible()
            .await
        {
            Ok(accepted) => Ok(Stream::new(accepted.into())),
            Err((error, socket)) => {
                socket.linger().await;
                Err(TlsError::from(&error))
            }
        }
    }

    /// Performs the TLS handshake with the server at `host`. The server checks our certificate
    /// later: a rejection is an error of the first read (see [`super::explain`]).
    pub(crate) async fn connect(
        &self,
        tcp: impl Into<Tcp>,
        host: &str,
    ) -> Result<Stream, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::no_name(host))?;
        let connector = TlsConnector::from(self.current().client);
        let connected = connector
            .connect_with(name, stream::Socket::new(tcp), |session| {
                session.set_buffer_limit(WRITE);
            })
            .await;
        connected
            .map(|connected| Stream::new(connected.into()))
            .map_err(|error| TlsError::from(&error))
    }

    /// Returns the time, and when our certificate expires, if that is within this duration; both
    /// since 1970. Reads the files again, if they have changed.
    pub(crate) fn expires_within(&self, time: Duration) -> (Duration, Option<Duration>) {
        let TlsConfigs { chain, roots, .. } = self.current();
        let algorithms = provider().signature_verification_algorithms;
        let now = Duration::from_secs(UnixTime::now().as_secs());
        let expires = expires_by(
            UnixTime::since_unix_epoch(now + time),
            &chain,
            &roots,
            algorithms,
        );
        (
            now,
            expires.map(|expires| Duration::from_secs(expires.as_secs())),
        )
    }

    /// Returns the path of our certificate.
    pub(crate) fn certificate_file(&self) -> Option<&Path> {
        self.files.identity.as_ref().map(|(cert, _)| cert.path())
    }

    /// What to make new connections with: what the files hold now, or what they held when they
    /// could last be used.
    fn current(&self) -> TlsConfigs {
        self.current_at(Instant::now())
    }

    pub(super) fn current_at(&self, now: Instant) -> TlsConfigs {
        let mut loaded = self.lock();
        if loaded.reload.is_due(now)
            && let Some(read) = self.files.again()
        {
            self.load(&mut loaded, read, now);
        }
        loaded.configs.clone()
    }

    /// Uses what was read, if it is new and can be used.
    fn load(&self, loaded: &mut Loaded, read: Result<PemFiles, BadCredentials>, now: Instant) {
        let made = match read {
            Ok(files) if !loaded.reload.should_try(&files) => return,
            Ok(files) => {
                configs(&files, &self.prefix, self.host.as_deref()).map(|configs| (configs, files))
            }
            Err(error) => Err(error),
        };
        match made {
            Ok((configs, files)) => {
                loaded.configs = configs;
                loaded.reload.accepted(files);
                let certificate = self
                    .files
                    .identity
                    .as_ref()
                    .map_or(&self.files.ca, |(cert, _)| cert);
                log::info!(
                    "new connections use the new certificate in {}",
                    certificate.path().display()
                );
            }
            Err(error) => {
                if let Some(suppressed) = loaded.reload.rejected(error.to_string(), now) {
                    log::warn!(
                        "the certificates changed, and cannot be used; the old ones stay in use: {error}{suppressed}"
                    );
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn configs(
    files: &PemFiles,
    prefix: &str,
    host: Option<&str>,
) -> Result<TlsConfigs, BadCredentials> {
    let roots = Arc::new(files.ca.roots()?);
    let Some((cert, key)) = &files.identity else {
        return Err(files
            .ca
            .bad("cannot be used without a certificate and its key: set cert and key"));
    };
    let chain = cert.chain()?;
    let provider = Arc::new(provider());
    check_key(cert, &chain, key, &provider)?;
    match check_own(
        &chain,
        &roots,
        provider.signature_verification_algorithms,
        prefix,
        host,
    ) {
        Ok(()) => {}
        Err(OwnCertError::Unusable(message)) => return Err(cert.bad(message)),
        Err(OwnCertError::Untrusted(message)) => {
            log::warn!(
                "the certificate in {} may be refused by others: {message}",
                cert.path().display()
            );
        }
    }
    let key_der = key.private_key()?;
    let fits = |error: Error| key.bad(format_args!("cannot be used: {}", words_of(&error)));
    let broken = |error: &dyn fmt::Display| files.ca.bad(format_args!("cannot be used: {error}"));
    let verifier = Verifier::new(Arc::clone(&roots), Arc::clone(&provider), prefix)
        .map_err(|error| broken(&error))?;
    let verifier = Arc::new(verifier);
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13]);
    let server = server
        .map_err(|error| broken(&error))?
        .with_client_cert_verifier(Arc::clone(&verifier) as _);
    let mut server = server
        .with_single_cert(chain.clone(), key_der.clone_key())
        .map_err(fits)?;
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
    let client = client
        .map_err(|error| broken(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut client = client
        .with_client_auth_cert(chain.clone(), key_der)
        .map_err(fits)?;
    client.resumption = Resumption::disabled();
    Ok(TlsConfigs {
        server: Arc::new(server),
        client: Arc::new(client),
        chain: chain.into(),
        roots,
    })
}

/// Returns the cryptography provider, with the faster ciphers first.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = crypto::ring::default_provider();
    let quick =
        |suite: &SupportedCipherSuite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| !quick(suite));
    provider
}
