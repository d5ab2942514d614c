//! Turns the settings into what TLS between peers is made of.

use crate::{Error, ErrorKind, Options, ports::tls::Credentials};
use std::sync::Arc;

/// What TLS is made of, if it is spoken in the mesh; for a server at `host`, or for a client.
pub fn credentials(options: &Options, host: Option<&str>) -> Result<Option<Arc<Credentials>>, Error> {
    let Some(files) = options.mesh_tls() else { return Ok(None) };
    let read = Credentials::read(files, &options.prefix, host);
    read.map(|read| Some(Arc::new(read))).map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))
}
