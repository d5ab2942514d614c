//! The files that prove who we are, and tell whom to believe; read again when they change.

use super::{
    failure::{Failure, words_of},
    stream::{self, Stream},
    verify::{OwnFault, Verifier, check_own},
};
use crate::{facts::settings::TlsFiles, ports::runtime::TcpStream};
use futures_rustls::{
    TlsAcceptor, TlsConnector,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    rustls::{
        CipherSuite, ClientConfig, Error, RootCertStore, ServerConfig, SupportedCipherSuite,
        client::Resumption,
        crypto::{self, CryptoProvider},
        server::NoServerSessionStorage,
        version::TLS13,
    },
};
use std::{
    fmt, fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How often at most the files are looked at, and only when somebody connects.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many bytes a session makes records of before the socket takes them: more than rustls's own 64 KiB, for fewer system
/// calls.
const WRITE: Option<usize> = Some(128 * 1024);

/// Files of which no TLS can be made: which one, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadCredentials(String);

impl BadCredentials {
    fn new(setting: &str, path: &Path, reason: impl fmt::Display) -> Self {
        Self(format!("{setting}: {} {reason}", path.display()))
    }
}

impl fmt::Display for BadCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadCredentials {}

/// What makes a connection of a socket.
#[derive(Clone)]
struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// What stood in the files.
#[derive(PartialEq, Eq)]
struct Texts {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
}

struct Loaded {
    configs: Configs,
    /// What was read last, be it of use or not, or why nothing was.
    seen: Result<Texts, BadCredentials>,
    looked: Instant,
}

/// Our certificate and its key, and the authority of the others' certificates.
pub struct Credentials {
    files: TlsFiles,
    prefix: String,
    /// Where others reach us, if they do.
    host: Option<String>,
    loaded: Mutex<Loaded>,
}

/// Shows no key.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the files, for the mesh of this prefix, and for a server at `host` if it is one.
    ///
    /// # Errors
    /// When a file is missing, holds something else, has expired, does not fit the others, or is not for this mesh or host.
    pub fn read(files: TlsFiles, prefix: &str, host: Option<&str>) -> Result<Self, BadCredentials> {
        let texts = read(&files)?;
        let configs = configs(&files, &texts, prefix, host)?;
        let loaded = Mutex::new(Loaded { configs, seen: Ok(texts), looked: Instant::now() });
        Ok(Self { files, prefix: prefix.to_owned(), host: host.map(str::to_owned), loaded })
    }

    /// Has a client prove who it is, and proves it to it.
    ///
    /// # Errors
    /// When it does not: it has been told, as far as TLS can.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Stream, Failure> {
        let acceptor = TlsAcceptor::from(self.current().server);
        match acceptor
            .accept_with(stream::Socket::new(tcp), |session| session.set_buffer_limit(WRITE))
            .into_fallible()
            .await
        {
            Ok(accepted) => Ok(Stream::new(accepted.into())),
            Err((error, socket)) => {
                socket.linger().await;
                Err(Failure::from(&error))
            }
        }
    }

    /// Has the server at `host` prove who it is, and shows it our certificate, which it looks at later: what it thinks of
    /// it comes as an error of the first read (see [`super::explain`]).
    ///
    /// # Errors
    /// When it does not.
    pub async fn connect(&self, tcp: TcpStream, host: &str) -> Result<Stream, Failure> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Failure::no_name(host))?;
        let connector = TlsConnector::from(self.current().client);
        let connected =
            connector.connect_with(name, stream::Socket::new(tcp), |session| session.set_buffer_limit(WRITE)).await;
        connected.map(|connected| Stream::new(connected.into())).map_err(|error| Failure::from(&error))
    }

    /// What to make new connections with: what the files hold now, or what they held when they were last of use.
    fn current(&self) -> Configs {
        let mut loaded = self.lock();
        if loaded.looked.elapsed() >= LOOK_EVERY {
            self.look(&mut loaded);
            loaded.looked = Instant::now();
        }
        loaded.configs.clone()
    }

    fn look(&self, loaded: &mut Loaded) {
        if !self.can_be_read_again() {
            return;
        }
        let seen = read(&self.files);
        if seen == loaded.seen {
            return;
        }
        let made = seen.as_ref().map_err(Clone::clone);
        let made = made.and_then(|texts| configs(&self.files, texts, &self.prefix, self.host.as_deref()));
        match made {
            Ok(configs) => {
                loaded.configs = configs;
                log::info!("new connections use the new certificate in {}", self.files.cert.display());
            }
            Err(error) => log::warn!("the certificates changed, and cannot be used; the old ones stay in use: {error}"),
        }
        loaded.seen = seen;
    }

    /// A pipe has nothing for a second reader, who would wait for it.
    fn can_be_read_again(&self) -> bool {
        let pipe = |path: &Path| fs::metadata(path).is_ok_and(|found| !found.is_file());
        ![&self.files.ca, &self.files.cert, &self.files.key].into_iter().any(|path| pipe(path))
    }

    fn lock(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(files: &TlsFiles) -> Result<Texts, BadCredentials> {
    let read = |setting, path: &Path| {
        fs::read(path).map_err(|error| BadCredentials::new(setting, path, format_args!("cannot be read: {error}")))
    };
    Ok(Texts { ca: read("cacert", &files.ca)?, cert: read("cert", &files.cert)?, key: read("key", &files.key)? })
}

fn configs(files: &TlsFiles, texts: &Texts, prefix: &str, host: Option<&str>) -> Result<Configs, BadCredentials> {
    let roots = Arc::new(roots(&files.ca, &texts.ca)?);
    let chain = certificates("cert", &files.cert, &texts.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&texts.key)
        .map_err(|_| BadCredentials::new("key", &files.key, "holds no private key in PEM (one without a password)"))?;
    let provider = Arc::new(provider());
    let algorithms = provider.signature_verification_algorithms;
    match check_own(&chain, &roots, algorithms, prefix, host) {
        Ok(()) => {}
        Err(OwnFault::Useless(words)) => return Err(BadCredentials::new("cert", &files.cert, words)),
        Err(OwnFault::Doubtful(words)) => {
            log::warn!("the certificate in {} may be refused by others: {words}", files.cert.display());
        }
    }
    let fits = |error: Error| match error {
        Error::InconsistentKeys(_) => {
            BadCredentials::new("key", &files.key, "is not the key of the certificate in cert")
        }
        error => BadCredentials::new("key", &files.key, format_args!("cannot be used: {}", words_of(&error))),
    };
    let broken =
        |error: &dyn fmt::Display| BadCredentials::new("cacert", &files.ca, format_args!("cannot be used: {error}"));
    let verifier = Verifier::new(roots, Arc::clone(&provider), prefix).map_err(|error| broken(&error))?;
    let verifier = Arc::new(verifier);
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13]);
    let server = server.map_err(|error| broken(&error))?.with_client_cert_verifier(Arc::clone(&verifier) as _);
    let mut server = server.with_single_cert(chain.clone(), key.clone_key()).map_err(fits)?;
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
    let client = client.map_err(|error| broken(&error))?.dangerous().with_custom_certificate_verifier(verifier);
    let mut client = client.with_client_auth_cert(chain, key).map_err(fits)?;
    client.resumption = Resumption::disabled();
    Ok(Configs { server: Arc::new(server), client: Arc::new(client) })
}

/// What does the cryptography. The quicker of its ciphers come first.
fn provider() -> CryptoProvider {
    let mut provider = crypto::ring::default_provider();
    let quick = |suite: &SupportedCipherSuite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| !quick(suite));
    provider
}

fn roots(path: &Path, text: &[u8]) -> Result<RootCertStore, BadCredentials> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("cacert", path, text)? {
        let added = roots.add(certificate);
        added.map_err(|_| BadCredentials::new("cacert", path, "holds a certificate that cannot be read"))?;
    }
    Ok(roots)
}

fn certificates(setting: &str, path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadCredentials> {
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|_| BadCredentials::new(setting, path, "is no whole PEM file"))?;
    if found.is_empty() {
        return Err(BadCredentials::new(setting, path, "holds no certificate in PEM"));
    }
    Ok(found)
}
