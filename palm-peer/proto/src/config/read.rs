//! Reads settings from text.

use super::{InvalidSetting, TlsMode, host};
use log::LevelFilter;
use std::{ffi::OsStr, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

pub(super) fn etcd_urls(_: &str, text: &str) -> Result<Vec<String>, InvalidSetting> {
    text.split(',').map(|url| etcd_url(url.trim())).collect()
}

pub(super) fn tls(_: &str, text: &str) -> Result<TlsMode, InvalidSetting> {
    text.trim().parse()
}

// All readers have the same signature.
#[expect(clippy::unnecessary_wraps)]
pub(super) fn text(_: &str, text: &str) -> Result<String, InvalidSetting> {
    Ok(text.trim().to_owned())
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

pub(super) fn seconds(name: &str, text: &str) -> Result<Duration, InvalidSetting> {
    let text = text.trim();
    let wrong = |why: &str| InvalidSetting::new(name, format!("{text:?} {why}"));
    let no_time = "is not a time in seconds, such as 2.5";
    let seconds: f64 = text.parse().map_err(|_| wrong(no_time))?;
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        wrong(if seconds.is_finite() && seconds > 0.0 {
            "is longer than 24 hours (86400)"
        } else {
            no_time
        })
    })
}

pub(super) fn etcd_url(text: &str) -> Result<String, InvalidSetting> {
    host::url(text).map_err(|reason| InvalidSetting::new("etcd", reason))
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
