//! Everything about a peer, a client or the CLI that can be set, with defaults.

mod host;
mod misspelt;
#[cfg(test)]
mod tests;
mod tls;
mod validate;

pub use self::{host::is_loopback, tls::Tls};

use crate::types::keys::Keys;
use log::LevelFilter;
use std::{
    ffi::{OsStr, OsString},
    fmt,
    net::IpAddr,
    ops::Deref,
    path::PathBuf,
    time::Duration,
};

/// Everything that can be set. Plain data: fill in what differs from the default, then [`Settings::build`].
///
/// Each field can also be set by name ([`Settings::set`]): the environment variable is `PALM_` and the name in
/// capitals, the flag is `--` and the name with dashes.
///
/// ```
/// use palm_proto::config::Settings;
/// use std::time::Duration;
///
/// let options = Settings { ttl: Duration::from_secs(5), ..Settings::default() }.build()?;
/// assert_eq!(options.ttl, Duration::from_secs(5));
/// # Ok::<(), palm_proto::config::InvalidSetting>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// etcd's client URLs, one for each member that may be asked. Default `http://127.0.0.1:2379`.
    pub etcd: Vec<String>,
    /// User and password for etcd. Default none.
    pub user: Option<(String, String)>,
    /// PEM file of the authority that signed the certificates of etcd and of the mesh. Default none.
    pub cacert: Option<PathBuf>,
    /// PEM file of the certificate shown to etcd, and to peers and clients. Default none.
    pub cert: Option<PathBuf>,
    /// PEM file of that certificate's key. Default none.
    pub key: Option<PathBuf>,
    /// Whether peers and clients speak TLS with each other. Default: when `cacert`, `cert` and `key` are all given.
    pub tls: Tls,
    /// The folder of the mesh in etcd. Peers and clients with different prefixes do not see each other. Default none.
    pub prefix: String,
    /// The host that others reach the server at, written in its record. Default `127.0.0.1`.
    pub ip: String,
    /// The address to listen on. Default: `ip`, which must then be an address of this machine.
    pub bind: Option<IpAddr>,
    /// The port to listen on; 0 lets the system choose a free one. Default 0.
    pub port: u16,
    /// How long etcd keeps the record of a peer that it does not hear from. 2 s to 24 h, default 10 s. Shorter finds a
    /// frozen peer sooner, and costs more keep-alives (one each third of it).
    pub ttl: Duration,
    /// How long joining may wait for etcd before it fails. Default 10 s.
    pub join_timeout: Duration,
    /// How often the leader probes every server. Default 10 s.
    pub probe_period: Duration,
    /// How long a server may take to answer a probe. Default 2 s.
    pub probe_timeout: Duration,
    /// How many probes in a row a server may miss before it is removed. 1 to 100, default 3.
    pub probe_misses: u32,
    /// How long a leaving server may finish what it is doing. Default 10 s.
    pub drain: Duration,
    /// How long a call may take when the caller does not say. Default 30 s.
    pub timeout: Duration,
    /// How many functions run at once. Default 1024.
    pub max_in_flight: usize,
    /// How many requests may wait for one of those; beyond, the answer is `busy`. Default 4096.
    pub max_queued: usize,
    /// How many bytes these may have, all together; beyond, the answer is `busy`. At least `max_payload`. Default 256 MiB.
    pub max_queued_bytes: usize,
    /// The longest payload, in bytes, of a request or an answer. Default 64 MiB.
    pub max_payload: usize,
    /// The bytes that the server's own store (`set`, `append`) may hold. Default 256 MiB.
    pub max_store: usize,
    /// How many connections a server lets in at once. Default 10,000; each takes three file descriptors.
    pub max_connections: usize,
    /// How many of them may come from one address. Default 4096.
    pub max_per_address: usize,
    /// How many bytes of answers may wait for one connection that does not take them, before it is cut off. Default 1 GiB.
    pub max_unread: usize,
    /// How many bytes of its clients' messages a server holds in each of three places: on their way in, in functions that run,
    /// and as answers that nobody has taken yet. Beyond, long messages wait to come in, requests wait to run, and of those who
    /// take no answers, who leaves most is cut off. At least `max_payload`. Default 1 GiB.
    pub max_held: usize,
    /// Whether there is a door before `ZeroMQ`. For measuring what it costs.
    #[doc(hidden)]
    pub door: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            etcd: vec!["http://127.0.0.1:2379".into()],
            user: None,
            cacert: None,
            cert: None,
            key: None,
            tls: Tls::Auto,
            prefix: String::new(),
            ip: "127.0.0.1".into(),
            bind: None,
            port: 0,
            ttl: Duration::from_secs(10),
            join_timeout: Duration::from_secs(10),
            probe_period: Duration::from_secs(10),
            probe_timeout: Duration::from_secs(2),
            probe_misses: 3,
            drain: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
            max_in_flight: 1024,
            max_queued: 4096,
            max_queued_bytes: 256 * 1024 * 1024,
            max_payload: 64 * 1024 * 1024,
            max_store: 256 * 1024 * 1024,
            max_connections: 10_000,
            max_per_address: 4096,
            max_unread: 1024 * 1024 * 1024,
            max_held: 1024 * 1024 * 1024,
            door: true,
        }
    }
}

/// Says everything but the password.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
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

/// A setting that cannot be, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSetting {
    name: String,
    reason: String,
}

impl InvalidSetting {
    fn new(name: &str, reason: impl Into<String>) -> Self {
        Self { name: name.into(), reason: reason.into() }
    }

    /// Returns the setting's name, or that of the flag or environment variable that it came from.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names the flag or variable that the setting came from.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }
}

impl fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

impl std::error::Error for InvalidSetting {}

impl Settings {
    /// The names that [`Settings::set`] knows.
    pub const NAMES: [&'static str; 26] = [
        "etcd",
        "user",
        "cacert",
        "cert",
        "key",
        "tls",
        "prefix",
        "ip",
        "bind",
        "port",
        "ttl",
        "join_timeout",
        "probe_period",
        "probe_timeout",
        "probe_misses",
        "drain",
        "timeout",
        "max_in_flight",
        "max_queued",
        "max_queued_bytes",
        "max_payload",
        "max_store",
        "max_connections",
        "max_per_address",
        "max_unread",
        "max_held",
    ];

    /// The defaults, changed by the `PALM_*` variables of the environment.
    ///
    /// # Errors
    /// When a variable does not hold what its setting needs; the error names the variable.
    pub fn from_env() -> Result<Self, InvalidSetting> {
        Self::from_lookup(|variable| std::env::var_os(variable))
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, InvalidSetting> {
        let mut settings = Self::default();
        for (name, variable) in Self::NAMES.into_iter().zip(Self::variables()) {
            if let Some(value) = lookup(&variable).filter(|value| !value.is_empty()) {
                settings.set_os(name, &value).map_err(|error| error.named(variable))?;
            }
        }
        Ok(settings)
    }

    /// The variables of the environment, in the order of [`Settings::NAMES`].
    fn variables() -> impl Iterator<Item = String> {
        Self::NAMES.into_iter().map(|name| format!("PALM_{}", name.to_ascii_uppercase()))
    }

    /// Returns the variables of the environment whose names are nearly those of settings, each with the name that was probably
    /// meant. They have no effect, so a program should warn about them.
    #[must_use]
    pub fn misspelt_variables() -> Vec<(String, String)> {
        misspelt::misspelt(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
    }

    /// As [`Settings::set`], with a value that need not be UTF-8: a path may be anything.
    fn set_os(&mut self, name: &str, value: &OsStr) -> Result<(), InvalidSetting> {
        let path = match (name, value.to_str()) {
            (_, Some(text)) => return self.set(name, text),
            ("cacert", None) => &mut self.cacert,
            ("cert", None) => &mut self.cert,
            ("key", None) => &mut self.key,
            // It may be a password.
            (_, None) => return Err(InvalidSetting::new(name, "the value is not UTF-8 text")),
        };
        *path = Some(value.into());
        Ok(())
    }

    /// Sets one field from text: times in seconds (`2.5`), lists separated by commas, the user as `name:password`. White space
    /// around the text is ignored, but not in `user` and in paths, which are taken as they are.
    ///
    /// # Errors
    /// When there is no such setting, or the text is not what it needs.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), InvalidSetting> {
        let (whole, text) = (text, text.trim());
        let path = || path(name, whole).map(Some);
        match name {
            "etcd" => self.etcd = text.split(',').map(|url| etcd_url(url.trim())).collect::<Result<_, _>>()?,
            "user" => self.user = Some(user(whole)?),
            "cacert" => self.cacert = path()?,
            "cert" => self.cert = path()?,
            "key" => self.key = path()?,
            "tls" => self.tls = text.parse()?,
            "prefix" => text.clone_into(&mut self.prefix),
            "ip" => self.ip = host::host(text).map_err(|reason| InvalidSetting::new(name, reason))?,
            "bind" => self.bind = Some(parse(name, unbracketed(text), "an IP address alone, such as 0.0.0.0")?),
            "port" => self.port = parse(name, text, "a port (0 to 65535)")?,
            "ttl" => self.ttl = seconds(name, text)?,
            "join_timeout" => self.join_timeout = seconds(name, text)?,
            "probe_period" => self.probe_period = seconds(name, text)?,
            "probe_timeout" => self.probe_timeout = seconds(name, text)?,
            "probe_misses" => self.probe_misses = parse(name, text, "a whole number")?,
            "drain" => self.drain = seconds(name, text)?,
            "timeout" => self.timeout = seconds(name, text)?,
            "max_in_flight" => self.max_in_flight = parse(name, text, "a whole number")?,
            "max_queued" => self.max_queued = parse(name, text, "a whole number")?,
            "max_queued_bytes" => self.max_queued_bytes = parse(name, text, "a number of bytes")?,
            "max_payload" => self.max_payload = parse(name, text, "a number of bytes")?,
            "max_store" => self.max_store = parse(name, text, "a number of bytes")?,
            "max_connections" => self.max_connections = parse(name, text, "a number")?,
            "max_per_address" => self.max_per_address = parse(name, text, "a number")?,
            "max_unread" => self.max_unread = parse(name, text, "a number of bytes")?,
            "max_held" => self.max_held = parse(name, text, "a number of bytes")?,
            other => return Err(InvalidSetting::new(other, "there is no such setting")),
        }
        Ok(())
    }

    /// Checks that the settings make sense together. URLs and the host are brought into one form, such as `http://` for
    /// `HTTP://`.
    ///
    /// # Errors
    /// When one is out of its bounds or contradicts another; the error names both with their values.
    pub fn build(mut self) -> Result<Options, InvalidSetting> {
        self.check_etcd()?;
        self.check_tls()?;
        self.check_address()?;
        self.check_times()?;
        self.check_limits()?;
        Ok(Options(self))
    }
}

/// Settings that were checked. Read the fields of [`Settings`] through it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options(Settings);

impl Options {
    /// The address to listen on.
    #[must_use]
    pub fn bind_address(&self) -> IpAddr {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        self.bind.or_else(|| self.ip.parse().ok()).unwrap_or(loopback)
    }

    /// Whether peers and clients speak TLS.
    pub fn has_mesh_tls(&self) -> bool {
        self.speaks_tls()
    }

    /// Whether others than this machine can reach the server without a certificate.
    pub fn is_exposed(&self) -> bool {
        !self.has_mesh_tls() && !self.bind_address().to_canonical().is_loopback()
    }

    /// The layout of the mesh's keys.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys::new(&self.prefix)
    }
}

impl Deref for Options {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.0
    }
}

fn parse<T: std::str::FromStr>(name: &str, text: &str, what: &str) -> Result<T, InvalidSetting> {
    text.parse().map_err(|_| InvalidSetting::new(name, format!("{text:?} is not {what}")))
}

fn seconds(name: &str, text: &str) -> Result<Duration, InvalidSetting> {
    let wrong = |why: &str| InvalidSetting::new(name, format!("{text:?} {why}"));
    let no_time = "is not a time in seconds, such as 2.5";
    let seconds: f64 = text.parse().map_err(|_| wrong(no_time))?;
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        wrong(if seconds.is_finite() && seconds > 0.0 { "is longer than 24 hours (86400)" } else { no_time })
    })
}

fn etcd_url(text: &str) -> Result<String, InvalidSetting> {
    host::url(text).map_err(|reason| InvalidSetting::new("etcd", reason))
}

/// An IPv6 address may stand in brackets, as in a URL.
fn unbracketed(text: &str) -> &str {
    text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text)
}

fn path(name: &str, text: &str) -> Result<PathBuf, InvalidSetting> {
    if text.is_empty() || text.contains(char::is_control) {
        return Err(InvalidSetting::new(name, format!("{text:?} is not the path of a file")));
    }
    Ok(PathBuf::from(text))
}

/// A password may hold anything that can be typed, spaces at its ends included. A line break comes from the file that it was
/// read from.
fn user(text: &str) -> Result<(String, String), InvalidSetting> {
    let wrong = |reason| Err(InvalidSetting::new("user", reason));
    match text.split_once(':') {
        _ if text.contains(['\n', '\r']) => {
            wrong("it holds a line break: leave out the one at the end of the password's file")
        }
        _ if text.contains(char::is_control) => wrong("it holds a control character"),
        Some((name, password)) if !name.is_empty() => Ok((name.into(), password.into())),
        _ => wrong("written as name:password"),
    }
}

/// The level to log at, from the value of `PALM_LOG`; `INFO` when there is none.
///
/// # Errors
/// When the text names no level.
pub fn log_level(value: Option<&OsStr>) -> Result<LevelFilter, InvalidSetting> {
    let text = value.map(OsStr::to_string_lossy);
    match text.map(|text| text.trim().to_ascii_uppercase()).as_deref() {
        None | Some("" | "INFO") => Ok(LevelFilter::Info),
        Some("OFF") => Ok(LevelFilter::Off),
        Some("CRITICAL" | "ERROR") => Ok(LevelFilter::Error),
        Some("WARNING" | "WARN") => Ok(LevelFilter::Warn),
        Some("DEBUG") => Ok(LevelFilter::Debug),
        Some("TRACE") => Ok(LevelFilter::Trace),
        Some(other) => Err(InvalidSetting::new("PALM_LOG", format!("{other:?} is no level such as INFO or DEBUG"))),
    }
}
