//! Stands in for `tls` in a program that is built without it (the feature `tls`): the same names,
//! of which no value can exist. A configuration that asks for TLS is refused before it comes here
//! (`palm_proto::config`).

pub(crate) use crate::io::tls_error_kind::TlsErrorKind;
use crate::io::{executor::TcpStream, tcp::Tcp};
use futures::{AsyncRead, AsyncWrite};
use std::{
    convert::Infallible,
    fmt, io,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

/// Why files cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadCredentials;

impl fmt::Display for BadCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cacert: this program is built without TLS (the feature tls of palm-peer)")
    }
}

impl std::error::Error for BadCredentials {}

/// The files that prove who we are.
#[derive(Debug, Clone)]
pub(crate) struct PemFiles(Infallible);

impl PemFiles {
    pub(crate) fn read(_: &Path, _: Option<(&Path, &Path)>) -> Result<Self, BadCredentials> {
        Err(BadCredentials)
    }

    pub(crate) fn again(&self) -> Option<Result<Self, BadCredentials>> {
        match self.0 {}
    }
}

/// What TLS between peers is made of.
#[derive(Debug)]
pub(crate) struct Credentials(Infallible);

impl Credentials {
    pub(crate) fn new(files: PemFiles, _: &str, _: Option<&str>) -> Result<Self, BadCredentials> {
        match files.0 {}
    }

    pub(crate) async fn accept(&self, _: TcpStream) -> Result<Stream, TlsError> {
        match self.0 {}
    }

    pub(crate) async fn connect(&self, _: impl Into<Tcp>, _: &str) -> Result<Stream, TlsError> {
        match self.0 {}
    }

    pub(crate) fn expires_within(&self, _: Duration) -> (Duration, Option<Duration>) {
        match self.0 {}
    }

    pub(crate) fn certificate_file(&self) -> Option<&Path> {
        match self.0 {}
    }
}

/// What TLS towards etcd is made of.
#[derive(Debug, Clone)]
pub(crate) struct EtcdTls(Infallible);

impl EtcdTls {
    pub(crate) fn new(files: &PemFiles) -> Result<Self, BadCredentials> {
        match files.0 {}
    }
}

/// Why a connection to etcd failed, if TLS is the reason: without TLS that cannot be found out.
pub(crate) async fn diagnose(_: &str, tls: Option<&EtcdTls>) -> Option<String> {
    match tls?.0 {}
}

/// What an error of a connection says about TLS.
pub(crate) fn explain(_: &io::Error) -> Option<TlsError> {
    None
}

/// Why there is no TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsError {
    pub kind: TlsErrorKind,
    never: Infallible,
}

impl fmt::Display for TlsError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.never {}
    }
}

/// A connection over TLS.
#[derive(Debug, Clone)]
pub(crate) struct Stream(Infallible);

impl Stream {
    pub(crate) fn sent(&self) -> u64 {
        match self.0 {}
    }
}

macro_rules! never_io {
    ($($stream:ty),*) => {$(
        impl AsyncRead for $stream {
            fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
                match self.0 {}
            }
        }

        impl AsyncWrite for $stream {
            fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
                match self.0 {}
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.0 {}
            }

            fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.0 {}
            }
        }
    )*};
}

never_io!(Stream, &Stream);
