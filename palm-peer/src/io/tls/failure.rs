//! Why a TLS handshake failed, with what to do about it.

pub(crate) use crate::io::tls_error_kind::TlsErrorKind;
use chrono::DateTime;
use futures_rustls::{
    pki_types::UnixTime,
    rustls::{AlertDescription, CertificateError, Error},
};
use std::{fmt, io};

/// The supported key types of certificates.
pub(super) const SUPPORTED_KEYS: &str = "P-256, P-384, RSA of 2048 to 4096 bits, and Ed25519";

/// Why a TLS handshake failed. The message says "it" for the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsError {
    /// The kind of the error.
    pub kind: TlsErrorKind,
    message: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl TlsError {
    fn new(kind: TlsErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// Creates the error for a host that no certificate can be valid for.
    pub(super) fn no_name(host: &str) -> Self {
        Self::new(
            TlsErrorKind::Certificate,
            format!("{host:?} is not a name or address that a certificate can be for"),
        )
    }
}

/// Returns the TLS error in an error of a connection, if there is one.
pub(crate) fn explain(error: &io::Error) -> Option<TlsError> {
    error.get_ref()?.downcast_ref::<Error>().map(TlsError::from)
}

impl From<&io::Error> for TlsError {
    fn from(error: &io::Error) -> Self {
        explain(error).unwrap_or_else(|| match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::new(
                TlsErrorKind::Broken,
                "it ended the connection in its TLS handshake",
            ),
            _ => Self::new(TlsErrorKind::Broken, error.to_string()),
        })
    }
}

impl From<&Error> for TlsError {
    fn from(error: &Error) -> Self {
        let kind = match error {
            Error::InvalidMessage(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::PeerMisbehaved(_)
            | Error::PeerSentOversizedRecord => TlsErrorKind::NotTls,
            Error::PeerIncompatible(_)
            | Error::AlertReceived(AlertDescription::ProtocolVersion) => TlsErrorKind::Version,
            Error::NoCertificatesPresented | Error::InvalidCertificate(_) => {
                TlsErrorKind::Certificate
            }
            Error::AlertReceived(alert) if is_about_certificates(*alert) => {
                TlsErrorKind::Distrusted
            }
            _ => TlsErrorKind::Broken,
        };
        Self::new(kind, words_of(error))
    }
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::NoCertificate
    )
}

/// Returns the message for an error, about the peer.
pub(super) fn words_of(error: &Error) -> String {
    match error {
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::PeerSentOversizedRecord => {
            "it does not use TLS, which needs cacert, cert and key on its side too".into()
        }
        Error::PeerIncompatible(_) => format!("it does not support TLS 1.3 ({error})"),
        Error::NoCertificatesPresented => "it presents no certificate".into(),
        Error::InvalidCertificate(error) => format!(
            "its certificate is not accepted: {}",
            certificate_message(error)
        ),
        Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "it does not support TLS 1.3".into()
        }
        Error::AlertReceived(alert) if is_about_certificates(*alert) => {
            format!(
                "it does not accept our certificate: {}",
                alert_words(*alert)
            )
        }
        error => error.to_string(),
    }
}

fn alert_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateExpired => "it has expired, or is not valid yet".into(),
        AlertDescription::CertificateRequired => "it requires one, and got none".into(),
        AlertDescription::UnknownCA => "no authority in its cacert has signed it".into(),
        AlertDescription::UnsupportedCertificate => {
            "its extendedKeyUsage does not allow this use (serverAuth and clientAuth do)".into()
        }
        AlertDescription::CertificateUnknown => {
            "it is for another mesh, or fails another of its checks".into()
        }
        AlertDescription::BadCertificate => "it is for another name".into(),
        alert => format!("{alert:?}"),
    }
}

/// Returns what is wrong with a certificate.
pub(super) fn certificate_message(error: &CertificateError) -> String {
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("it expired at {}", time(*not_after))
        }
        CertificateError::Expired => "it has expired".into(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("it is not valid before {}", time(*not_before))
        }
        CertificateError::UnknownIssuer => "it is not signed by the authority in cacert".into(),
        CertificateError::BadSignature => "its signature is wrong".into(),
        CertificateError::BadEncoding => "it is not a certificate".into(),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            // The names have the form `DnsName("a.example")` and `IpAddress(10.0.0.1)`.
            let bare = |name: &String| {
                let inner = name
                    .split_once('(')
                    .map_or(name.as_str(), |(_, inner)| inner);
                inner.trim_end_matches(')').trim_matches('"').to_owned()
            };
            let names: Vec<_> = presented.iter().map(bare).collect();
            let names = if names.is_empty() {
                "no host".into()
            } else {
                names.join(", ")
            };
            format!("it is for {names}, not for {}", expected.to_str())
        }
        CertificateError::InvalidPurposeContext { required, .. } => {
            format!("its extendedKeyUsage does not allow {required}")
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            format!(
                "it, or one above it, has a key or a signature that is not supported: {SUPPORTED_KEYS} are"
            )
        }
        CertificateError::Other(other) => other
            .0
            .downcast_ref()
            .and_then(webpki_words)
            .map_or_else(|| other.0.to_string(), str::to_owned),
        error => error.to_string(),
    }
}

/// Errors that only webpki reports.
fn webpki_words(error: &webpki::Error) -> Option<&'static str> {
    use webpki::Error;
    Some(match error {
        Error::UnsupportedCertVersion => {
            "it is X.509 version 1, as openssl makes it when no extensions are named: make it with -extfile"
        }
        Error::CaUsedAsEndEntity => {
            "it is an authority's certificate (CA:TRUE), and none for a server or client: make it with CA:FALSE"
        }
        Error::EndEntityUsedAsCa => {
            "it is signed by a certificate that is not an authority's (CA:FALSE)"
        }
        Error::UnsupportedCriticalExtension => "it has a critical extension that is not known here",
        Error::PathLenConstraintViolated => {
            "an authority above it may not have others below it (pathlen)"
        }
        Error::NameConstraintViolation => {
            "its names are not allowed by an authority above it (nameConstraints)"
        }
        _ => return None,
    })
}

fn time(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    DateTime::from_timestamp(seconds, 0).map_or_else(
        || seconds.to_string(),
        |time| time.format("%FT%TZ").to_string(),
    )
}
