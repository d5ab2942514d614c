//! Creates the TLS material from the configuration, for the mesh and for etcd.

use crate::{
    error::{Error, ErrorKind},
    io::{
        executor,
        tls::{BadCredentials, Credentials, PemFiles},
    },
};
use palm_proto::config::ValidConfig;
use std::{path::PathBuf, sync::Arc};

/// Reads the TLS files, if there are any: once, because they may be pipes, and on another thread,
/// because the disk may hang.
pub(crate) async fn read(config: &ValidConfig) -> Result<Option<PemFiles>, Error> {
    let Some(ca) = config.cacert.clone() else {
        return Ok(None);
    };
    let identity = config.cert.clone().zip(config.key.clone());
    let read = executor::run_blocking(move || {
        let identity = identity
            .as_ref()
            .map(|(cert, key): &(PathBuf, PathBuf)| (cert.as_path(), key.as_path()));
        PemFiles::read(&ca, identity)
    });
    read.await.map(Some).map_err(bad_files)
}

/// Returns the credentials, if TLS is used in the mesh; for a server at `host`, or for a client.
pub(crate) fn credentials(
    config: &ValidConfig,
    files: Option<&PemFiles>,
    host: Option<&str>,
) -> Result<Option<Arc<Credentials>>, Error> {
    match files {
        Some(files) if config.has_mesh_tls() => {
            let credentials =
                Credentials::new(files.clone(), &config.prefix, host).map_err(bad_files)?;
            Ok(Some(Arc::new(credentials)))
        }
        _ => Ok(None),
    }
}

/// Returns the error for unusable TLS files.
pub(crate) fn bad_files(error: BadCredentials) -> Error {
    Error::new(ErrorKind::InvalidConfig, error.to_string()).of_files()
}
