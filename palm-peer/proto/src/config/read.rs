//! Reads settings from text.

use super::{InvalidSetting, TlsMode, host};
use log::LevelFilter;
use std::{
    ffi::OsStr,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

/// Reads the URLs of etcd. The scheme may be left out, as for etcdctl: it is added when the
/// settings are checked, since it depends on the others.
pub(super) fn etcd_urls(_: &str, text: &str) -> Result<Vec<String>, InvalidSetting> {
    let urls = text.split(',').map(str::trim);
    urls.map(|url| match etcd_address(url) {
        Some(address) => Ok(address),
        None => etcd_url(url),
    })
    .collect()
}

pub(super) fn tls(_: &str, text: &str) -> Result<TlsMode, InvalidSetting> {
    text.trim().parse()
}

// All readers have the same signature.
#[expect(clippy::unnecessary_wraps)]
pub(super) fn text(_: &str, text: &str) -> Result<String, InvalidSetting> {
    Ok(text.trim().to_owned())
}

/// Reads a list that is separated by commas; without any text, an empty one.
// All readers have the same signature.
#[expect(clippy::unnecessary_wraps)]
pub(super) fn tags(_: &str, text: &str) -> Result<Vec<String>, InvalidSetting> {
    let tags = text.split(',').map(str::trim);
    Ok(tags
        .filter(|tag| !tag.is_empty())
        .map(str::to_owned)
        .collect())
}

pub(super) fn host(name: &str, text: &str) -> Result<String, InvalidSetting> {
    host::host(text.trim()).map_err(|reason| InvalidSetting::new(name, reason))
}

pub(super) fn address(name: &str, text: &str) -> Result<Option<IpAddr>, InvalidSetting> {
    parse(
        name,
        unbracketed(text.trim()),
        "an IP address alone, such as 0.0.0.0",
    )
    .map(Some)
}

pub(super) fn socket_address(name: &str, text: &str) -> Result<Option<SocketAddr>, InvalidSetting> {
    let what = "an IP address and a port, such as 127.0.0.1:9464";
    parse(name, text, what).map(Some)
}

pub(super) fn yes_or_no(name: &str, text: &str) -> Result<bool, InvalidSetting> {
    match text.trim().to_ascii_lowercase().as_str() {
        "yes" | "true" | "1" => Ok(true),
        "no" | "false" | "0" => Ok(false),
        _ => Err(InvalidSetting::new(
            name,
            format!("{:?} is neither yes nor no", text.trim()),
        )),
    }
}

pub(super) fn port(name: &str, text: &str) -> Result<u16, InvalidSetting> {
    parse(name, text, "a port (0 to 65535)")
}

pub(super) fn whole_number<T: FromStr>(name: &str, text: &str) -> Result<T, InvalidSetting> {
    parse(name, text, "a whole number")
}

pub(super) fn bytes(name: &str, text: &str) -> Result<usize, InvalidSetting> {
    parse(name, text, "a number of bytes")
}

fn parse<T: FromStr>(name: &str, text: &str, what: &str) -> Result<T, InvalidSetting> {
    text.trim()
        .parse()
        .map_err(|_| InvalidSetting::new(name, format!("{:?} is not {what}", text.trim())))
}

/// Reads a time: seconds, or a number with a unit.
pub(super) fn seconds(name: &str, text: &str) -> Result<Duration, InvalidSetting> {
    let text = text.trim();
    let wrong = |why: &str| InvalidSetting::new(name, format!("{text:?} {why}"));
    let no_time = "is not a time such as 2.5 (seconds), 500ms, 10s or 1m";
    let seconds = number_of_seconds(text).ok_or_else(|| wrong(no_time))?;
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        wrong(if seconds.is_finite() && seconds > 0.0 {
            "is longer than 24 hours (86400)"
        } else {
            no_time
        })
    })
}

fn number_of_seconds(text: &str) -> Option<f64> {
    let with_unit = |(unit, seconds): (&str, f64)| {
        let number: f64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        Some(number * seconds)
    };
    // Milliseconds come before the seconds and minutes that their unit is made of.
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    text.parse()
        .ok()
        .or_else(|| units.into_iter().find_map(with_unit))
}

pub(super) fn etcd_url(text: &str) -> Result<String, InvalidSetting> {
    host::url(text).map_err(|reason| InvalidSetting::new("etcd", reason))
}

/// Returns `host:port` if the text is that, without a scheme.
fn etcd_address(text: &str) -> Option<String> {
    let has_port = || {
        let (_, port) = text.rsplit_once(':')?;
        port.parse::<u16>().ok()
    };
    if text.contains("://") {
        return None;
    }
    has_port()?;
    let url = etcd_url(&format!("http://{text}")).ok()?;
    url.strip_prefix("http://").map(str::to_owned)
}

/// Returns a URL for one whose scheme may be left out: `https` when there is an authority for it.
pub(super) fn with_scheme(text: &str, has_authority: bool) -> String {
    match etcd_address(text) {
        Some(address) if has_authority => format!("https://{address}"),
        Some(address) => format!("http://{address}"),
        None => text.to_owned(),
    }
}

/// Removes the brackets of an IPv6 address, which may be written as in a URL.
fn unbracketed(text: &str) -> &str {
    text.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text)
}

pub(super) fn path(name: &str, text: &str) -> Result<Option<PathBuf>, InvalidSetting> {
    if text.is_empty() || text.contains(char::is_control) {
        return Err(InvalidSetting::new(
            name,
            format!("{text:?} is not the path of a file"),
        ));
    }
    Ok(Some(PathBuf::from(text)))
}

/// A password may contain any printable characters, including spaces at its ends. A trailing line
/// break comes from the file that it was read from, and is removed.
pub(super) fn user(name: &str, text: &str) -> Result<Option<(String, String)>, InvalidSetting> {
    let wrong = |reason| Err(InvalidSetting::new(name, reason));
    match text.split_once(':') {
        _ if text.contains(['\n', '\r']) => {
            wrong("it contains a line break: remove the one at the end of the password's file")
        }
        _ if text.contains(char::is_control) => wrong("it contains a control character"),
        Some((user, password)) if !user.is_empty() => Ok(Some((user.into(), password.into()))),
        _ => wrong("written as name:password"),
    }
}

/// Returns the log level for a value of `PALM_LOG`; `INFO` without a value.
///
/// # Errors
/// When the text is not a level.
pub fn log_level(value: Option<&OsStr>) -> Result<LevelFilter, InvalidSetting> {
    let text = value.map(OsStr::to_string_lossy);
    match text.map(|text| text.trim().to_ascii_uppercase()).as_deref() {
        None | Some("" | "INFO") => Ok(LevelFilter::Info),
        Some("OFF") => Ok(LevelFilter::Off),
        Some("CRITICAL" | "ERROR") => Ok(LevelFilter::Error),
        Some("WARNING" | "WARN") => Ok(LevelFilter::Warn),
        Some("DEBUG") => Ok(LevelFilter::Debug),
        Some("TRACE") => Ok(LevelFilter::Trace),
        Some(other) => Err(InvalidSetting::new(
            "PALM_LOG",
            format!("{other:?} is not a level such as INFO or DEBUG"),
        )),
    }
}
