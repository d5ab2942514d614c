//! The content of the TLS files: certificates and keys in PEM, and readable errors about them.

use super::failure::{SUPPORTED_KEYS, certificate_message};
use futures_rustls::{
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    rustls::{
        Error, InconsistentKeys, RootCertStore,
        crypto::CryptoProvider,
        server::ParsedCertificate,
        sign::{CertifiedKey, SigningKey},
    },
};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The byte order mark that some Windows editors put before UTF-8 text. Also found between
/// certificates of concatenated files.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// An unusable TLS file, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadCredentials(String);

impl BadCredentials {
    pub(super) fn new(setting: &str, path: &Path, reason: impl fmt::Display) -> Self {
        Self(format!("{setting}: {} {reason}", path.display()))
    }
}

impl fmt::Display for BadCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadCredentials {}

/// One file, as it was read.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PemFile {
    setting: &'static str,
    path: PathBuf,
    pub(super) text: Vec<u8>,
}

/// All TLS files. They are read once for the mesh and etcd together: a pipe cannot be read twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PemFiles {
    /// The trusted authorities.
    pub ca: PemFile,
    /// Our certificate and its key.
    pub identity: Option<(PemFile, PemFile)>,
}

/// Does not show the key.
impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PemFile").field(&self.path).finish()
    }
}

impl PemFiles {
    /// Reads the files. Fails when one cannot be read. The content is not checked.
    pub(crate) fn read(
        ca: &Path,
        identity: Option<(&Path, &Path)>,
    ) -> Result<Self, BadCredentials> {
        let ca = PemFile::read("cacert", ca)?;
        let identity = identity
            .map(|(cert, key)| Ok((PemFile::read("cert", cert)?, PemFile::read("key", key)?)));
        Ok(Self {
            ca,
            identity: identity.transpose()?,
        })
    }

    /// Reads the same files again; `None` when one of them is not a regular file, such as a pipe.
    /// Fails when one cannot be read.
    pub(crate) fn again(&self) -> Option<Result<Self, BadCredentials>> {
        let identity = self.identity.as_ref();
        let mut files = [
            Some(&self.ca),
            identity.map(|(cert, _)| cert),
            identity.map(|(_, key)| key),
        ]
        .into_iter();
        if files.any(|file| file.is_some_and(PemFile::is_pipe)) {
            return None;
        }
        Some(Self::read(
            &self.ca.path,
            identity.map(|(cert, key)| (cert.path.as_path(), key.path.as_path())),
        ))
    }
}

impl PemFile {
    fn read(setting: &'static str, path: &Path) -> Result<Self, BadCredentials> {
        let text = fs::read(path);
        let text = text.map_err(|error| {
            BadCredentials::new(setting, path, format_args!("cannot be read: {error}"))
        })?;
        Ok(Self {
            setting,
            path: path.to_owned(),
            text: mended(text),
        })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn is_pipe(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|found| !found.is_file())
    }

    /// Creates an error about this file.
    pub(super) fn bad(&self, reason: impl fmt::Display) -> BadCredentials {
        BadCredentials::new(self.setting, &self.path, reason)
    }

    /// Returns the authorities in it.
    pub(super) fn roots(&self) -> Result<RootCertStore, BadCredentials> {
        let mut roots = RootCertStore::empty();
        for (place, certificate) in self.certificates()?.into_iter().enumerate() {
            roots
                .add(certificate)
                .map_err(|error| self.unreadable(place, &error))?;
        }
        Ok(roots)
    }

    /// Returns our certificate in it, and the intermediate ones up to the authority.
    pub(super) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, BadCredentials> {
        let chain = self.certificates()?;
        for (place, certificate) in chain.iter().enumerate() {
            ParsedCertificate::try_from(certificate)
                .map_err(|error| self.unreadable(place, &error))?;
        }
        Ok(chain)
    }

    fn unreadable(&self, place: usize, error: &Error) -> BadCredentials {
        let number = place + 1;
        match error {
            Error::InvalidCertificate(error) => self.bad(format_args!(
                "cannot be used: certificate {number} in it: {}",
                certificate_message(error)
            )),
            error => self.bad(format_args!(
                "cannot be used: certificate {number} in it: {error}"
            )),
        }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, BadCredentials> {
        let mut found = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(&self.text) {
            let number = found.len() + 1;
            let damaged = |error: pem::Error| {
                self.bad(format_args!(
                    "is not a complete PEM file: certificate {number} in it cannot be decoded: {error}"
                ))
            };
            found.push(certificate.map_err(damaged)?);
        }
        if found.is_empty() {
            return Err(self.bad(format_args!(
                "holds no certificate in PEM{}",
                self.other_form()
            )));
        }
        Ok(found)
    }

    /// Returns the private key in it.
    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, BadCredentials> {
        PrivateKeyDer::from_pem_slice(&self.text).map_err(|_| {
            self.bad(format_args!(
                "holds no private key in PEM (one without a password){}",
                self.other_form()
            ))
        })
    }

    /// Returns the format of the file if it is not PEM, where that is recognised.
    fn other_form(&self) -> &'static str {
        match self.text.as_slice() {
            [] => ": it is empty",
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
                ": it is text in UTF-16, save it as UTF-8 or ASCII"
            }
            // An ASN.1 sequence.
            [0x30, 0x80..=0x84, ..] => ": it is DER or PKCS#12, convert it to PEM with openssl",
            _ => "",
        }
    }
}

/// Returns the text without byte order marks, and with each part on its own lines: after files
/// without a final line break were concatenated, the PEM reader would silently drop what follows.
fn mended(text: Vec<u8>) -> Vec<u8> {
    let text = replaced(text, BYTE_ORDER_MARK, b"");
    replaced(text, b"----------BEGIN ", b"-----\n-----BEGIN ")
}

fn replaced(text: Vec<u8>, part: &[u8], by: &[u8]) -> Vec<u8> {
    if !text.windows(part.len()).any(|window| window == part) {
        return text;
    }
    let mut rest = text.as_slice();
    let mut out = Vec::with_capacity(text.len());
    while let Some((first, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(part) {
            out.extend_from_slice(by);
            rest = tail;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

/// Checks that the key can be used, and belongs to the first certificate of the chain.
pub(super) fn check_key(
    cert: &PemFile,
    chain: &[CertificateDer<'static>],
    key: &PemFile,
    provider: &CryptoProvider,
) -> Result<(), BadCredentials> {
    let signing: Arc<dyn SigningKey> = provider
        .key_provider
        .load_private_key(key.private_key()?)
        .map_err(|_| {
        key.bad(format_args!(
            "holds a key that is not supported: {SUPPORTED_KEYS} are"
        ))
    })?;
    let fits = |certificate: &CertificateDer<'static>| {
        let pair = CertifiedKey::new(vec![certificate.clone()], Arc::clone(&signing));
        !matches!(
            pair.keys_match(),
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch))
        )
    };
    match chain.iter().position(fits) {
        Some(0) => Ok(()),
        Some(place) => Err(cert.bad(format_args!(
            "has its certificates in the wrong order: the one of the key is number {}, and must be the first",
            place + 1
        ))),
        None => Err(key.bad("is not the key of the certificate in cert")),
    }
}
