//! What can be said of a setting: its names, its default, its documentation.

/// One setting, as [`Config::SETTINGS`](super::Config::SETTINGS) lists them.
///
/// ```
/// # use palm_proto::config as palm_peer;
/// use palm_peer::Config;
///
/// let period = Config::SETTINGS.iter().find(|setting| setting.name == "probe_period").expect("a setting");
/// assert_eq!(period.variable(), "PALM_PROBE_PERIOD");
/// assert_eq!(period.flag(), "--probe-period");
/// assert_eq!(period.default, "10");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setting {
    /// The name of its field in [`Config`](super::Config), which
    /// [`Config::set`](super::Config::set) takes.
    pub name: &'static str,
    /// What stands for its value in a usage message, such as `seconds`.
    pub value: &'static str,
    /// A line for `--help`.
    pub help: &'static str,
    /// The default, as text that [`Config::set`](super::Config::set) takes, or words for a default
    /// that is no value.
    pub default: &'static str,
    /// What it does, in Markdown.
    pub description: &'static str,
    /// Which programs use it.
    pub scope: SettingScope,
}

/// Which programs use a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingScope {
    /// All: which mesh it is, and how to get in.
    Mesh,
    /// All that call functions: clients, and servers too.
    Client,
    /// Servers only.
    Server,
}

impl Setting {
    /// Its environment variable: `PALM_` and the name in capitals.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("PALM_{}", self.name.to_ascii_uppercase())
    }

    /// Its command-line flag: `--` and the name with dashes.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }
}
