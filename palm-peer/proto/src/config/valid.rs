//! A validated configuration.

use super::{Config, InvalidSetting};
use crate::types::keys::Keys;
use std::{net::IpAddr, ops::Deref};

/// A validated [`Config`] with normalised URLs and host, such as `http://` for `HTTP://`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ValidConfig(Config);

impl ValidConfig {
    /// Checks a configuration.
    ///
    /// # Errors
    /// When a setting is out of its bounds or contradicts another; the error names both
    /// with their values.
    pub fn new(mut config: Config) -> Result<Self, InvalidSetting> {
        config.check_etcd()?;
        config.check_tls()?;
        config.check_address()?;
        config.check_labels()?;
        config.check_times()?;
        config.check_limits()?;
        config.check_metrics()?;
        Ok(Self(config))
    }

    /// Returns the address to listen on.
    #[must_use]
    pub fn bind_address(&self) -> IpAddr {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        self.bind
            .or_else(|| self.ip.parse().ok())
            .unwrap_or(loopback)
    }

    /// Returns whether peers and clients use TLS.
    pub fn has_mesh_tls(&self) -> bool {
        self.speaks_tls()
    }

    /// Returns whether other machines can reach the server without a certificate.
    pub fn is_exposed(&self) -> bool {
        !self.has_mesh_tls() && !self.bind_address().to_canonical().is_loopback()
    }

    /// Returns the zone whose servers are preferred; `None` if all are equal.
    #[must_use]
    pub fn preferred_zone(&self) -> Option<String> {
        self.prefer_zone.then(|| self.zone.clone())
    }

    /// Returns the layout of the mesh's keys.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys::new(&self.prefix)
    }
}

impl Deref for ValidConfig {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.0
    }
}
