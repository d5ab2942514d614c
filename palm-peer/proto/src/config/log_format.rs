//! How log lines are written.

use super::InvalidSetting;
use std::ffi::OsStr;

/// The variable that names the format.
const VARIABLE: &str = "PALM_LOG_FORMAT";

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// `Plain` where stderr leads to systemd's journal, which records the time itself; otherwise
    /// `Time`.
    #[default]
    Auto,
    /// `LEVEL:target:message`, as pylm writes them.
    Plain,
    /// The same after the time, in UTC: `2026-11-27T22:10:05.123456Z LEVEL:target:message`.
    Time,
    /// One JSON object a line, with the strings `time`, `level`, `target`, `message` and `place`
    /// (the file and line of the source).
    Json,
}

impl LogFormat {
    /// Returns the format that `PALM_LOG_FORMAT` names: `auto`, `plain`, `time` or `json`; `Auto`
    /// without it.
    ///
    /// # Errors
    /// When the variable names no format.
    pub fn from_env() -> Result<Self, InvalidSetting> {
        Self::named(std::env::var_os(VARIABLE).as_deref())
    }

    fn named(value: Option<&OsStr>) -> Result<Self, InvalidSetting> {
        let text = value.map(OsStr::to_string_lossy);
        match text.map(|text| text.trim().to_ascii_lowercase()).as_deref() {
            None | Some("" | "auto") => Ok(Self::Auto),
            Some("plain") => Ok(Self::Plain),
            Some("time") => Ok(Self::Time),
            Some("json") => Ok(Self::Json),
            Some(other) => Err(InvalidSetting::new(
                VARIABLE,
                format!("{other:?} is none of auto, plain, time and json"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_and_others_are_refused_by_name() {
        let named = |text: &str| LogFormat::named(Some(OsStr::new(text)));
        assert_eq!(LogFormat::named(None), Ok(LogFormat::Auto));
        assert_eq!(named(" JSON"), Ok(LogFormat::Json));
        let error = named("xml").expect_err("no format").to_string();
        assert_eq!(
            error,
            "PALM_LOG_FORMAT: \"xml\" is none of auto, plain, time and json"
        );
    }
}
