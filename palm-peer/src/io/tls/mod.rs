//! TLS between peers: the only user of rustls, of futures-rustls above it, and of webpki below it.
//!
//! TLS 1.3 only, with certificates on both sides, signed by the mesh's authority. Sessions are not
//! resumed: every handshake checks both certificates.

mod credentials;
mod etcd;
mod failure;
mod pem;
mod stream;
#[cfg(test)]
mod tests;
mod verify;

pub(crate) use self::{
    credentials::Credentials,
    etcd::{EtcdTls, diagnose},
    failure::{TlsError, TlsErrorKind, explain},
    pem::{BadCredentials, PemFiles},
    stream::Stream,
};
