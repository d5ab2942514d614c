//! Turns the settings into what TLS between peers is made of.

use crate::{
    Error, ErrorKind, Options,
    ports::{runtime, tls::Credentials},
};
use std::sync::Arc;

/// What TLS is made of, if it is spoken in the mesh; for a server at `host`, or for a client. The files are read on another
/// thread: they may be pipes, or lie on a disk that does not answer.
pub async fn credentials(options: &Options, host: Option<&str>) -> Result<Option<Arc<Credentials>>, Error> {
    let Some(files) = options.mesh_tls() else { return Ok(None) };
    let (prefix, host) = (options.prefix.clone(), host.map(str::to_owned));
    let read = runtime::run_blocking(move || Credentials::read(files, &prefix, host.as_deref())).await;
    read.map(|read| Some(Arc::new(read))).map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()).of_files())
}
