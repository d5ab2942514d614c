//! Settings from the environment.

use super::{Config, InvalidSetting, misspelt};
use std::ffi::{OsStr, OsString};

impl Config {
    /// Returns the defaults, overridden by the `PALM_*` variables of the environment.
    ///
    /// ```
    /// # use palm_proto::config as palm_peer;
    /// // PALM_PREFIX, PALM_PORT and so on, but always this etcd.
    /// let config = palm_peer::Config::from_env()?.etcd(vec!["https://etcd.example:2379".into()]);
    /// # Ok::<_, palm_peer::InvalidSetting>(())
    /// ```
    ///
    /// # Errors
    /// When the value of a variable is invalid; the error names the variable.
    pub fn from_env() -> Result<Self, InvalidSetting> {
        Self::from_lookup(|variable| std::env::var_os(variable))
    }

    pub(super) fn from_lookup(
        lookup: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, InvalidSetting> {
        let mut config = Self::default();
        for setting in Self::SETTINGS {
            let variable = setting.variable();
            if let Some(value) = lookup(&variable).filter(|value| !value.is_empty()) {
                config
                    .set_os(setting.name, &value)
                    .map_err(|error| error.named(variable))?;
            }
        }
        Ok(config)
    }

    /// Returns the variables of the environment whose names are nearly those of config, each with
    /// the name that was probably meant. They have no effect, so a program should warn about them.
    #[must_use]
    pub fn misspelt_variables() -> Vec<(String, String)> {
        misspelt::misspelt(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
    }

    /// As [`Config::set`], with a value that need not be UTF-8: paths may contain any bytes.
    fn set_os(&mut self, name: &str, value: &OsStr) -> Result<(), InvalidSetting> {
        let path = match (name, value.to_str()) {
            (_, Some(text)) => return self.set(name, text),
            ("cacert", None) => &mut self.cacert,
            ("cert", None) => &mut self.cert,
            ("key", None) => &mut self.key,
            // The value is not shown: it may be a password.
            (_, None) => return Err(InvalidSetting::new(name, "the value is not valid UTF-8")),
        };
        *path = Some(value.into());
        Ok(())
    }
}
