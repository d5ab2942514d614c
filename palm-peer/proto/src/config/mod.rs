//! The configuration of a peer, a client or the CLI: one table of all settings, reading them from
//! text, and checking them.

mod env;
mod host;
mod invalid;
mod log_format;
mod misspelt;
mod read;
mod setting;
mod table;
#[cfg(test)]
mod tests;
mod tls;
mod valid;
mod validate;

pub use self::{
    host::is_loopback,
    invalid::InvalidSetting,
    log_format::LogFormat,
    read::log_level,
    setting::{Setting, SettingScope},
    tls::TlsMode,
    valid::ValidConfig,
};

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// Declares [`Config`] by the table of all settings.
macro_rules! declare_config {
    ($(
        $(#[doc = $doc:literal])*
        $scope:ident $name:ident: $type:ty = $default:expr, $default_text:literal, $read:path,
            $value:literal, $help:literal;
    )*) => {
        /// The configuration of a server, a client or an administrator. Begin with
        /// [`Config::from_env`] or the defaults, and set what differs: each setting is a public
        /// field, and a method of the same name that sets it. The configuration is checked where it
        /// is used, such as in `Server::join`, or by [`Config::validate`].
        ///
        /// Each field can also be set by name ([`Config::set`]): the environment variable is
        /// `PALM_` and the name in capitals, the flag is `--` and the name with dashes.
        /// [`Config::SETTINGS`] lists them.
        ///
        /// ```
        /// # use palm_proto::config as palm_peer;
        /// use palm_peer::Config;
        /// use std::time::Duration;
        ///
        /// let mut config = Config::default().prefix("/staging".into()).ttl(Duration::from_secs(5));
        /// config.max_in_flight = 16;
        /// assert_eq!(config.validate(), Ok(()));
        /// ```
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Config {
            $(
                $(#[doc = $doc])*
                #[doc = concat!("\n\nDefault: `", stringify!($default), "`.")]
                pub $name: $type,
            )*
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        /// Each returns the configuration with one setting changed.
        impl Config {
            $(
                $(#[doc = $doc])*
                #[must_use]
                pub fn $name(mut self, $name: $type) -> Self {
                    self.$name = $name;
                    self
                }
            )*
        }

        impl Config {
            /// All settings, in the order of the documentation.
            pub const SETTINGS: &'static [Setting] = &[$(Setting {
                name: stringify!($name),
                value: $value,
                help: $help,
                default: $default_text,
                description: concat!($($doc),*),
                scope: SettingScope::$scope,
            }),*];

            /// Sets one field from text: times in seconds (`2.5`) or with a unit (`500ms`, `2s`, `1m`,
            /// `1h`), lists separated by commas, the
            /// user as `name:password`. White space around the text is ignored, but not in `user`
            /// and in paths, which are taken as they are.
            ///
            /// ```
            /// # use palm_proto::config as palm_peer;
            /// use palm_peer::Config;
            ///
            /// let mut config = Config::default();
            /// config.set("ttl", "2.5")?;
            /// let error = config.set("port", "none").expect_err("no port");
            /// assert_eq!(error.to_string(), "port: \"none\" is not a port (0 to 65535)");
            /// # Ok::<_, palm_peer::InvalidSetting>(())
            /// ```
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

            /// Returns the configuration with the settings that only servers use at their defaults,
            /// whatever the environment says of them, for a program that is no server.
            #[must_use]
            pub fn without_server_settings(mut self) -> Self {
                let defaults = Self::default();
                $(if SettingScope::$scope == SettingScope::Server {
                    self.$name = defaults.$name;
                })*
                self
            }
        }
    };
}

crate::settings_table!(declare_config);

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
    /// When one is out of its bounds or contradicts another; the error names both
    /// with their values.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        ValidConfig::new(self.clone()).map(drop)
    }
}
