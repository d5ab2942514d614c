//! Verification of certificates for the mesh.

use super::failure::{certificate_message, words_of};
use futures_rustls::{
    pki_types::{CertificateDer, ServerName, UnixTime},
    rustls::{
        CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
        RootCertStore, SignatureScheme,
        client::{
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
            verify_server_cert_signed_by_trust_anchor, verify_server_name,
        },
        crypto::{
            CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature,
            verify_tls13_signature,
        },
        server::{
            ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier,
            danger::{ClientCertVerified, ClientCertVerifier},
        },
    },
};
use palm_proto::mesh_scope::{Scope, mesh_uri, scope};
use std::{fmt, sync::Arc};
use webpki::EndEntityCert;

/// A certificate that is only valid for other meshes.
#[derive(Debug)]
pub(super) struct MeshMismatch {
    /// The meshes that it is valid for.
    of: Vec<String>,
    /// The mesh that is required.
    wanted: String,
}

impl fmt::Display for MeshMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it is for the mesh {}, not for {}",
            self.of.join(", "),
            self.wanted
        )
    }
}

impl std::error::Error for MeshMismatch {}

/// Returns whether the certificate names this mesh; an error when it only names others.
fn is_for_mesh(certificate: &CertificateDer<'_>, prefix: &str) -> Result<bool, Error> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|_| CertificateError::BadEncoding)?;
    match scope(parsed.valid_uri_names(), prefix) {
        Scope::Any => Ok(false),
        Scope::This => Ok(true),
        Scope::Others(of) => {
            let wrong = MeshMismatch {
                of,
                wanted: mesh_uri(prefix),
            };
            Err(CertificateError::Other(OtherError(Arc::new(wrong))).into())
        }
    }
}

/// Why our own certificate is unusable.
pub(super) enum OwnCertError {
    /// No peer would accept it.
    Unusable(String),
    /// Peers that only trust our authority would not accept it.
    Untrusted(String),
}

/// Checks our own certificate as other peers will.
pub(super) fn check_own(
    chain: &[CertificateDer<'_>],
    roots: &RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
    prefix: &str,
    host: Option<&str>,
) -> Result<(), OwnCertError> {
    let useless = |error: Error| {
        OwnCertError::Unusable(match error {
            Error::InvalidCertificate(error) => {
                format!("cannot be used: {}", certificate_message(&error))
            }
            error => format!("cannot be used: {error}"),
        })
    };
    let Some((own, between)) = chain.split_first() else {
        return Ok(());
    };
    let parsed = ParsedCertificate::try_from(own).map_err(useless)?;
    if !is_for_mesh(own, prefix).map_err(useless)?
        && let Some(host) = host
    {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| {
            OwnCertError::Unusable(format!(
                "cannot be for {host:?}, which is not a name or address"
            ))
        })?;
        verify_server_name(&parsed, &name).map_err(useless)?;
    }
    let now = UnixTime::now();
    match verify_server_cert_signed_by_trust_anchor(&parsed, roots, between, now, algorithms.all) {
        Ok(()) => Ok(()),
        Err(
            error @ Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ),
        ) => Err(useless(error)),
        Err(error) => Err(OwnCertError::Untrusted(words_of(&error))),
    }
}

/// Returns when our own certificate or an intermediate one expires, if that is before this time.
pub(super) fn expires_by(
    time: UnixTime,
    chain: &[CertificateDer<'_>],
    roots: &RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
) -> Option<UnixTime> {
    let (own, between) = chain.split_first()?;
    let parsed = ParsedCertificate::try_from(own).ok()?;
    match verify_server_cert_signed_by_trust_anchor(&parsed, roots, between, time, algorithms.all) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Some(not_after)
        }
        _ => None,
    }
}

/// Verifies the certificates of peers, both servers and clients.
#[derive(Debug)]
pub(super) struct Verifier {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    clients: Arc<dyn ClientCertVerifier>,
    prefix: String,
}

impl Verifier {
    /// Creates a verifier that trusts these authorities, for the mesh of this prefix. Fails when
    /// there is no authority.
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
        prefix: &str,
    ) -> Result<Self, VerifierBuilderError> {
        let algorithms = provider.signature_verification_algorithms;
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider).build()?;
        Ok(Self {
            roots,
            algorithms,
            clients,
            prefix: prefix.to_owned(),
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        // A certificate that names its mesh is valid on all of its hosts.
        if !is_for_mesh(end_entity, &self.prefix)? {
            verify_server_name(&parsed, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .clients
            .verify_client_cert(end_entity, intermediates, now)?;
        is_for_mesh(end_entity, &self.prefix)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}
