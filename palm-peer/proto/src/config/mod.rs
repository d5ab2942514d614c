//! The configuration of a peer, a client or the CLI: one table of all settings, reading them from text, and checking them.

mod env;
mod host;
mod invalid;
mod misspelt;
mod read;
#[cfg(test)]
mod tests;
mod tls;
mod valid;
mod validate;

pub use self::{
    host::is_loopback, invalid::InvalidSetting, read::log_level, tls::Tls, valid::ValidConfig,
};

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

/// Declares [`Config`] by a table: for each setting its documentation, name, type, default, and how it is read from text. The
/// name is that of the field; the environment variable is `PALM_` and the name in capitals, the flag `--` and the name with
/// dashes.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr, $read:path;)*) => {
        /// The configuration of a server, a client or an administrator. Begin with [`Config::from_env`] or the defaults, and set
        /// what differs: each setting is a public field, and a method of the same name that sets it. The configuration is
        /// checked where it is used, such as in `Server::join`, or by [`Config::validate`].
        ///
        /// Each field can also be set by name ([`Config::set`]): the environment variable is `PALM_` and the name in
        /// capitals, the flag is `--` and the name with dashes.
        ///
        /// ```
        /// use palm_proto::config::Config;
        /// use std::time::Duration;
        ///
        /// let mut config = Config::default().prefix("/staging".into()).ttl(Duration::from_secs(5));
        /// config.max_in_flight = 16;
        /// assert_eq!(config.validate(), Ok(()));
        /// ```
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Config {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        /// Each returns the configuration with one setting changed.
        impl Config {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(mut self, $name: $type) -> Self {
                self.$name = $name;
                self
            })*
        }

        impl Config {
            /// The names that [`Config::set`] knows.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// Sets one field from text: times in seconds (`2.5`), lists separated by commas, the user as `name:password`. White
            /// space around the text is ignored, but not in `user` and in paths, which are taken as they are.
            ///
            /// # Errors
            /// When there is no such setting, or the text is not valid for it.
            pub fn set(&mut self, name: &str, text: &str) -> Result<(), InvalidSetting> {
                match name {
                    $(stringify!($name) => self.$name = $read(name, text)?,)*
                    other => return Err(InvalidSetting::new(other, "there is no such setting")),
                }
                Ok(())
            }
        }
    };
}

settings! {
    /// etcd's client URLs, one for each member that may be asked. Default `http://127.0.0.1:2379`.
    etcd: Vec<String> = vec!["http://127.0.0.1:2379".into()], read::etcd_urls;
    /// User and password for etcd. Default none.
    user: Option<(String, String)> = None, read::user;
    /// PEM file of the authority that signed the certificates of etcd and of the mesh. Default none.
    cacert: Option<PathBuf> = None, read::path;
    /// PEM file of the certificate shown to etcd, and to peers and clients. Default none.
    cert: Option<PathBuf> = None, read::path;
    /// PEM file of that certificate's key. Default none.
    key: Option<PathBuf> = None, read::path;
    /// Whether peers and clients speak TLS with each other. Default: when `cacert`, `cert` and `key` are all given.
    tls: Tls = Tls::Auto, read::tls;
    /// The folder of the mesh in etcd. Peers and clients with different prefixes do not see each other. Default none.
    prefix: String = String::new(), read::text;
    /// The host that others reach the server at, written in its record. Default `127.0.0.1`.
    ip: String = "127.0.0.1".into(), read::host;
    /// The address to listen on. Default: `ip`, which must then be an address of this machine.
    bind: Option<IpAddr> = None, read::address;
    /// The port to listen on; 0 lets the system choose a free one. Default 0.
    port: u16 = 0, read::port;
    /// The TTL of a peer's lease: how long etcd keeps its record without a keep-alive. 2 s to 24 h, default 10 s. A shorter TTL
    /// detects a frozen peer sooner, and costs more keep-alives (one per third of it).
    ttl: Duration = Duration::from_secs(10), read::seconds;
    /// How long joining may wait for etcd before it fails. Default 10 s.
    join_timeout: Duration = Duration::from_secs(10), read::seconds;
    /// How often the leader probes every server. Default 10 s.
    probe_period: Duration = Duration::from_secs(10), read::seconds;
    /// How long a server may take to answer a probe. Default 2 s.
    probe_timeout: Duration = Duration::from_secs(2), read::seconds;
    /// How many probes in a row a server may miss before it is removed. 1 to 100, default 3.
    probe_misses: u32 = 3, read::whole_number;
    /// How long a leaving server may finish what it is doing. Default 10 s.
    drain: Duration = Duration::from_secs(10), read::seconds;
    /// How long a call may take when the caller does not say. Default 30 s.
    timeout: Duration = Duration::from_secs(30), read::seconds;
    /// How many functions run at once. Default 1024.
    max_in_flight: usize = 1024, read::whole_number;
    /// How many requests may wait for one of those; beyond, the answer is `busy`. Default 4096.
    max_queued: usize = 4096, read::whole_number;
    /// How many bytes these may have, all together; beyond, the answer is `busy`. At least `max_payload`. Default 256 MiB.
    max_queued_bytes: usize = 256 * 1024 * 1024, read::bytes;
    /// The longest payload, in bytes, of a request or an answer. Default 64 MiB.
    max_payload: usize = 64 * 1024 * 1024, read::bytes;
    /// The maximum size of the server's own store (`set`, `append`), in bytes. Default 256 MiB.
    max_store: usize = 256 * 1024 * 1024, read::bytes;
    /// How many connections a server accepts at once. Default 10,000; each takes three file descriptors.
    max_connections: usize = 10_000, read::whole_number;
    /// How many of them may come from one address. Default 4096.
    max_per_address: usize = 4096, read::whole_number;
    /// How many bytes of answers may wait for one connection that does not read them, before it is cut off. Default 1 GiB.
    max_unread: usize = 1024 * 1024 * 1024, read::bytes;
    /// How many bytes of its clients' messages a server holds in each of three places: in messages being received, in running
    /// functions, and in answers that are not read yet. Beyond, long messages are not received, requests wait to run, and the client
    /// with the most unread answers is disconnected. At least `max_payload`. Default 1 GiB.
    max_held: usize = 1024 * 1024 * 1024, read::bytes;
}

/// Shows everything except the password.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("etcd", &self.etcd)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("tls", &self.tls)
            .field("prefix", &self.prefix)
            .field("ip", &self.ip)
            .field("bind", &self.bind)
            .field("port", &self.port)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Checks the settings, each alone and in combination.
    ///
    /// # Errors
    /// When one is out of its bounds or contradicts another; the error names both with their values.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        ValidConfig::new(self.clone()).map(drop)
    }
}
