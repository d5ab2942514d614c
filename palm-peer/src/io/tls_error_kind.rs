//! The kinds of TLS errors, the same with the feature `tls` and without.

/// The kind of a `TlsError`.
#[cfg_attr(
    not(feature = "tls"),
    expect(dead_code, reason = "without TLS there are no such errors")
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsErrorKind {
    /// The peer does not use TLS.
    NotTls,
    /// It supports no common version or ciphers.
    Version,
    /// Its certificate is missing or not accepted.
    Certificate,
    /// It does not accept our certificate.
    Distrusted,
    /// The connection was closed or broke.
    Broken,
}
