//! Creates a handle to etcd from the configuration.

use crate::{
    config::tls::bad_files,
    error::{Error, ErrorKind},
    io::{
        etcd::{Etcd, EtcdSettings, TlsSource},
        tls::{BadCredentials, EtcdTls, PemFiles},
    },
};
use palm_proto::config::ValidConfig;
use std::{io, sync::Arc, time::Duration};

/// The shortest timeout of an endpoint, so that a loaded etcd is not considered gone.
const MIN_TIME: Duration = Duration::from_millis(200);

/// Returns a handle to the etcd of `config`, with a thread of this name. `files` are the TLS
/// files that were read.
pub(crate) fn start(
    thread: &str,
    config: &ValidConfig,
    files: Option<&PemFiles>,
) -> Result<Etcd, Error> {
    let mut settings = EtcdSettings::new(config.etcd.iter().map(String::as_str));
    settings.request_timeout = request_timeout(config);
    settings.cluster_lost_after = config.ttl;
    settings.user.clone_from(&config.user);
    // With an etcd on the same machine without TLS, the files are only for the mesh.
    let plain = config.etcd.iter().all(|url| url.starts_with("http://"));
    settings.tls = match files {
        Some(files) if !plain => Some(tls(files).map_err(bad_files)?),
        _ => None,
    };
    Etcd::start(thread, settings).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => Error::new(ErrorKind::InvalidConfig, error.to_string()),
        _ => Error::new(ErrorKind::Io, "the thread that talks to etcd cannot start").caused(error),
    })
}

/// Every endpoint is tried before joining gives up: the last one may be the only one that answers.
fn request_timeout(config: &ValidConfig) -> Duration {
    let endpoints = u32::try_from(config.etcd.len()).unwrap_or(u32::MAX).max(1);
    (config.join_timeout / endpoints)
        .max(MIN_TIME)
        .min(EtcdSettings::REQUEST_TIMEOUT)
}

/// Returns a source of the TLS material for etcd: these files, and later the files in their
/// places at that time.
fn tls(files: &PemFiles) -> Result<TlsSource, BadCredentials> {
    let first = EtcdTls::new(files)?;
    let files = files.clone();
    Ok(Arc::new(move || match files.again() {
        None => Ok(first.clone()),
        Some(read) => read
            .and_then(|read| EtcdTls::new(&read))
            .map_err(io::Error::other),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use palm_proto::config::Config;

    #[test]
    fn every_endpoint_is_tried_within_the_join_timeout() {
        let time = |join_timeout, endpoints| {
            let etcd = vec!["http://127.0.0.1:1".to_owned(); endpoints];
            let settings = Config::default()
                .etcd(etcd)
                .join_timeout(Duration::from_millis(join_timeout));
            request_timeout(&ValidConfig::new(settings).expect("settings that make sense"))
                .as_millis()
        };
        assert_eq!(time(10_000, 1), 2000);
        assert_eq!(time(10_000, 3), 2000);
        assert_eq!(time(4000, 4), 1000);
        assert_eq!(time(100, 3), 200);
    }
}
