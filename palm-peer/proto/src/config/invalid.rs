//! Why a setting is invalid.

use std::fmt;

/// An invalid setting, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSetting {
    name: String,
    reason: String,
}

impl InvalidSetting {
    pub(super) fn new(name: &str, reason: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            reason: reason.into(),
        }
    }

    /// Returns the setting's name, or that of the flag or environment variable that it came from.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names the flag or variable that the setting came from.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..self
        }
    }
}

impl fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

impl std::error::Error for InvalidSetting {}
