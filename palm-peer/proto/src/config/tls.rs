//! Whether TLS is used in the mesh, and which files it needs.

use super::{Config, InvalidSetting, host};
use std::str::FromStr;

/// Whether peers and clients use TLS with each other.
///
/// ```
/// # use palm_proto::config as palm_peer;
/// use palm_peer::{Config, TlsMode};
///
/// assert_eq!("required".parse(), Ok(TlsMode::Required));
/// // It takes the files, too.
/// let error = Config::default().tls(TlsMode::Required).validate().expect_err("no files");
/// assert_eq!(error.name(), "tls");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TlsMode {
    /// Use TLS when `cacert`, `cert` and `key` are all set.
    #[default]
    Auto,
    /// Do not use TLS in the mesh; the files are for etcd only.
    Off,
    /// Require TLS, also with etcd: starting fails without the files, or with an
    /// `http://` URL of etcd.
    Required,
}

impl FromStr for TlsMode {
    type Err = InvalidSetting;

    fn from_str(text: &str) -> Result<Self, InvalidSetting> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            "required" => Ok(Self::Required),
            _ => Err(InvalidSetting::new(
                "tls",
                format!("{text:?} is not auto, off or required"),
            )),
        }
    }
}

/// Said of a setting that asks for TLS, in a program that cannot speak it.
const BUILT_WITHOUT: &str =
    "it asks for TLS, but this program is built without TLS (the feature `tls` of palm-peer)";

impl Config {
    /// Refuses what asks for TLS: it must never end in a connection without.
    fn refuse_tls(&self) -> Result<(), InvalidSetting> {
        let files = [
            ("cacert", &self.cacert),
            ("cert", &self.cert),
            ("key", &self.key),
        ];
        let file = files
            .into_iter()
            .find_map(|(name, path)| path.as_ref().map(|_| name));
        let required = || (self.tls == TlsMode::Required).then_some("tls");
        let etcd = || {
            self.etcd
                .iter()
                .any(|url| url.starts_with("https://"))
                .then_some("etcd")
        };
        match file.or_else(required).or_else(etcd) {
            Some(name) => Err(InvalidSetting::new(name, BUILT_WITHOUT)),
            None => Ok(()),
        }
    }

    /// Returns whether TLS is used in the mesh.
    pub(super) fn speaks_tls(&self) -> bool {
        let given = [&self.cacert, &self.cert, &self.key]
            .into_iter()
            .all(Option::is_some);
        given && self.tls != TlsMode::Off
    }

    pub(super) fn check_tls(&self) -> Result<(), InvalidSetting> {
        if !cfg!(feature = "tls") {
            return self.refuse_tls();
        }
        let refuse = |name, reason: &str| Err(InvalidSetting::new(name, reason));
        if self.cert.is_some() != self.key.is_some() {
            return refuse(
                "cert",
                "a certificate and its key are used together: set both cert and key",
            );
        }
        if self.cert.is_some() && self.cacert.is_none() {
            return refuse(
                "cert",
                "a certificate cannot be used without the authority that signs the others: set cacert as well",
            );
        }
        if self.tls == TlsMode::Required && !self.speaks_tls() {
            return refuse(
                "tls",
                "it is required, and needs all three of cacert, cert and key",
            );
        }
        for url in &self.etcd {
            if url.starts_with("https://") {
                continue;
            }
            if self.tls == TlsMode::Required {
                return refuse(
                    "tls",
                    &format!(
                        "it is required, but etcd is at {url}, which is plain: write https://"
                    ),
                );
            }
            // With an etcd on the same machine, the files may be for the mesh only.
            if self.cacert.is_some() && !(self.speaks_tls() && is_loopback(url)) {
                return refuse(
                    "etcd",
                    &format!("{url} is plain, but cacert is set: write https://"),
                );
            }
        }
        Ok(())
    }
}

/// Returns whether the host of this URL is loopback.
fn is_loopback(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(host) => host.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(host, _)| host),
    };
    host::is_loopback(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "tls")]
    use crate::config::ValidConfig;

    #[cfg(feature = "tls")]
    fn build(etcd: &str, files: &[&str], tls: &str) -> Result<ValidConfig, String> {
        let mut config = Config::default();
        config.set("etcd", etcd).expect("URLs");
        for name in files {
            config.set(name, &format!("/{name}.pem")).expect("a path");
        }
        config.set("tls", tls).expect("a word");
        ValidConfig::new(config).map_err(|error| error.to_string())
    }

    #[cfg(feature = "tls")]
    const ALL: [&str; 3] = ["cacert", "cert", "key"];

    #[test]
    fn without_tls_whatever_asks_for_it_is_refused_by_name() {
        let mut config = Config::default();
        assert_eq!(config.refuse_tls(), Ok(()));
        for name in ["cacert", "cert", "key", "tls", "etcd"] {
            let mut asking = config.clone();
            asking
                .set(
                    name,
                    if name == "tls" {
                        "required"
                    } else {
                        "https://x"
                    },
                )
                .expect(name);
            let error = asking.refuse_tls().expect_err(name);
            assert_eq!(
                (
                    error.name(),
                    error.to_string().contains("built without TLS")
                ),
                (name, true),
                "{error}"
            );
            if !cfg!(feature = "tls") {
                assert_eq!(
                    asking.validate(),
                    Err(error),
                    "never taken for a wish that may be ignored"
                );
            }
        }
        config.set("tls", "off").expect("a word");
        assert_eq!(config.refuse_tls(), Ok(()));
    }

    #[test]
    #[cfg(feature = "tls")]
    fn tls_is_on_when_all_files_are_set_unless_turned_off() {
        for (etcd, files, tls, spoken) in [
            ("http://127.0.0.1:2379", &ALL[..0], "auto", false),
            ("https://db:2379", &ALL[..1], "auto", false),
            ("https://db:2379", &ALL, "auto", true),
            ("https://db:2379", &ALL, "off", false),
            ("https://db:2379", &ALL, "Required", true),
            ("http://127.0.0.1:2379", &ALL, "auto", true),
            (
                "http://localhost:2379/,http://[::1]:2379",
                &ALL,
                "auto",
                true,
            ),
        ] {
            let config = build(etcd, files, tls).expect("a valid config");
            assert_eq!(config.has_mesh_tls(), spoken, "{etcd} {files:?} {tls}");
        }
    }

    #[test]
    #[cfg(feature = "tls")]
    fn unsafe_combinations_are_refused() {
        for (etcd, files, tls, message) in [
            ("https://db:2379", &ALL[..0], "required", "all three"),
            ("https://db:2379", &ALL[..1], "required", "all three"),
            ("http://127.0.0.1:2379", &ALL, "required", "plain"),
            (
                "https://db:1,http://db:2379",
                &ALL,
                "required",
                "http://db:2379",
            ),
            ("http://db:2379", &ALL, "auto", "plain"),
            ("http://127.0.0.1:2379", &ALL, "off", "plain"),
            ("http://127.0.0.1:2379", &ALL[..1], "auto", "plain"),
            ("https://db:2379", &ALL[1..], "auto", "set cacert"),
            ("https://db:2379", &ALL[..2], "auto", "set both"),
        ] {
            let error = build(etcd, files, tls).expect_err(message);
            assert!(error.contains(message), "{etcd} {files:?} {tls}: {error}");
        }
    }

    #[test]
    #[cfg(feature = "tls")]
    fn a_public_address_without_tls_is_exposed() {
        let exposed = |ip: &str, bind: Option<&str>, files: bool| {
            let mut config = Config::default().ip(ip.into());
            config.bind = bind.map(|bind| bind.parse().expect("an address"));
            if files {
                for name in ALL {
                    config.set(name, "/x.pem").expect("a path");
                }
            }
            ValidConfig::new(config)
                .expect("a valid config")
                .is_exposed()
        };
        assert!(!exposed("127.0.0.1", None, false));
        assert!(!exposed("::1", None, false));
        assert!(exposed("10.0.0.1", None, false));
        assert!(exposed("127.0.0.1", Some("0.0.0.0"), false));
        assert!(!exposed("10.0.0.1", None, true));
    }
}
