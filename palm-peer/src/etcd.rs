//! Turns the settings into a handle to etcd.

use crate::{
    Error, ErrorKind, Options,
    ports::etcd::{Etcd, EtcdSettings, EtcdTls},
};
use std::{fs, path::Path};

/// A handle to the etcd of `options`, with a thread of this name.
pub fn start(thread: &str, options: &Options) -> Result<Etcd, Error> {
    let mut settings = EtcdSettings::new(options.etcd.iter().map(String::as_str));
    settings.user.clone_from(&options.user);
    settings.tls = tls(options)?;
    Etcd::start(thread, settings)
        .map_err(|error| Error::new(ErrorKind::System, "the thread that talks to etcd cannot start").caused(error))
}

fn tls(options: &Options) -> Result<Option<EtcdTls>, Error> {
    let Some(ca) = &options.cacert else { return Ok(None) };
    let identity = match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => Some((read("cert", cert)?, read("key", key)?)),
        _ => None,
    };
    Ok(Some(EtcdTls { ca: read("cacert", ca)?, identity }))
}

fn read(name: &str, path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("{name}: cannot read {}", path.display())).caused(error)
    })
}
