//! TLS between peers: the only user of rustls, of futures-rustls above it, and of webpki below it.
//!
//! TLS 1.3 alone, with certificates on both sides, each of the mesh's authority. Nothing is resumed: every handshake looks
//! at both certificates anew.

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
