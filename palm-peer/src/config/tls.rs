//! Turns the settings into what TLS is made of, between peers and towards etcd.

use crate::{
    error::{Error, ErrorKind},
    io::{
        executor,
        tls::{BadCredentials, Credentials, PemFiles},
    },
};
use palm_proto::config::ValidConfig;
use std::{path::PathBuf, sync::Arc};

/// Reads the files of TLS, if there are any: once, for they may be pipes, and on another thread, for they may lie on a disk
/// that does not answer.
pub(crate) async fn read(config: &ValidConfig) -> Result<Option<PemFiles>, Error> {
    let Some(ca) = config.cacert.clone() else { return Ok(None) };
    let identity = config.cert.clone().zip(config.key.clone());
    let read = executor::run_blocking(move || {
        let identity = identity.as_ref().map(|(cert, key): &(PathBuf, PathBuf)| (cert.as_path(), key.as_path()));
        PemFiles::read(&ca, identity)
    });
    read.await.map(Some).map_err(bad_files)
}

/// What TLS is made of, if it is spoken in the mesh; for a server at `host`, or for a client.
pub(crate) fn credentials(
    config: &ValidConfig,
    files: Option<&PemFiles>,
    host: Option<&str>,
) -> Result<Option<Arc<Credentials>>, Error> {
    match files {
        Some(files) if config.has_mesh_tls() => {
            let credentials = Credentials::new(files.clone(), &config.prefix, host).map_err(bad_files)?;
            Ok(Some(Arc::new(credentials)))
        }
        _ => Ok(None),
    }
}

/// The error for files of which no TLS can be made.
pub(crate) fn bad_files(error: BadCredentials) -> Error {
    Error::new(ErrorKind::InvalidConfig, error.to_string()).of_files()
}
