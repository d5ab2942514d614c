//! Hosts and URLs as people write them: normalised, or refused with the reason.

use std::net::{IpAddr, Ipv6Addr};

/// The longest host name of DNS, in bytes.
const MAX_NAME: usize = 253;
/// The longest label of a host name, in bytes.
const MAX_LABEL: usize = 63;

/// Returns whether this host is a loopback address or name; an IPv6 address is without brackets.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Reads a host: a name or an address; an IPv6 address may be in brackets. Returns
/// it without these.
pub(super) fn host(text: &str) -> Result<String, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Some(bare) = bare.filter(|bare| bare.parse::<Ipv6Addr>().is_ok()) {
        return Ok(bare.to_owned());
    }
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let refuse = |reason: &str| Err(format!("{text:?} is not a host: {reason}"));
    if text.is_empty() {
        return refuse("it is empty");
    }
    if text.contains('%') && text.contains(':') {
        return refuse("an address with a zone (fe80::1%eth0) is meaningless on another machine");
    }
    if text.contains(':') {
        return refuse("it must be a name or an address alone, without a port");
    }
    check_name(text).map_or_else(|reason| refuse(&reason), |()| Ok(text.to_owned()))
}

fn check_name(text: &str) -> Result<(), String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if !name.is_ascii() {
        return Err("a name with other letters must be in its ASCII form (xn--...)".into());
    }
    if let Some(wrong) = name
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
    {
        return Err(format!("a name cannot contain {wrong:?}"));
    }
    if name.len() > MAX_NAME
        || name
            .split('.')
            .any(|label| label.is_empty() || label.len() > MAX_LABEL)
    {
        return Err(format!(
            "a name has at most {MAX_NAME} characters, and 1 to {MAX_LABEL} between two dots"
        ));
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err("it is neither an IPv4 address nor a name".into());
    }
    Ok(())
}

/// Returns a URL of etcd in one form: `http://host:port` or `https://host:port`, with the scheme in
/// lower case and no `/` at the end.
pub(super) fn url(text: &str) -> Result<String, String> {
    let no_url = || format!("{text:?} is not a URL such as http://127.0.0.1:2379");
    if text.is_empty() {
        return Err(format!("{} (is there a comma too many?)", no_url()));
    }
    if text.contains('@') {
        // The text is not shown: it contains a password.
        return Err(
            "a URL must not contain '@': set user and password separately (PALM_USER)".into(),
        );
    }
    let (scheme, rest) = text.split_once("://").ok_or_else(no_url)?;
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "http" | "https" => {}
        "unix" | "unixs" => {
            return Err(format!("{text:?} is a Unix socket: only TCP is supported"));
        }
        _ => return Err(no_url()),
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, more) = rest.split_at(end);
    if !matches!(more, "" | "/") {
        return Err(format!(
            "{text:?} has {more:?} after its host and port: leave it out"
        ));
    }
    let (name, port) = split_port(authority);
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(no_url());
    }
    if name.contains(':') && !name.starts_with('[') {
        return Err(format!(
            "{text:?} has an IPv6 address, which needs brackets: {scheme}://[::1]:2379"
        ));
    }
    let host = host(name).map_err(|reason| format!("{text:?}: {reason}"))?;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    let Some(port) = port else {
        return Ok(format!("{scheme}://{host}"));
    };
    match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(format!("{scheme}://{host}:{number}"))
        }
        _ => Err(format!(
            "{text:?} has the port {port:?}: a port is a number from 1 to 65535"
        )),
    }
}

/// Splits at the last colon outside brackets.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let host_end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    match authority[host_end..].find(':') {
        // Several colons without brackets are an IPv6 address.
        Some(_) if host_end == 0 && authority.matches(':').count() > 1 => (authority, None),
        Some(colon) => (
            &authority[..host_end + colon],
            Some(&authority[host_end + colon + 1..]),
        ),
        None => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_normalised() {
        for (text, meant) in [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("HTTP://Db.Example:2379/", "http://Db.Example:2379"),
            ("HttpS://db", "https://db"),
            ("https://[::1]:1", "https://[::1]:1"),
            ("http://[::1]", "http://[::1]"),
            ("http://etcd_1.local.:02379", "http://etcd_1.local.:2379"),
            ("http://a:65535", "http://a:65535"),
        ] {
            assert_eq!(url(text).as_deref(), Ok(meant), "{text}");
        }
    }

    #[test]
    fn invalid_urls_are_refused_with_the_reason() {
        for (text, reason) in [
            ("", "a comma too many"),
            ("127.0.0.1:2379", "not a URL such as"),
            ("http:/127.0.0.1:2379", "not a URL such as"),
            ("ftp://a:1", "not a URL such as"),
            ("http://", "not a URL such as"),
            ("http://:2379", "not a URL such as"),
            ("http://a b:2379", "not a URL such as"),
            ("http://a:2379/etcd", "\"/etcd\" after its host"),
            ("http://a:2379//", "\"//\" after its host"),
            ("http://a:2379?x=1", "\"?x=1\" after its host"),
            ("http://a:2379#x", "\"#x\" after its host"),
            ("http://a:99999", "the port \"99999\""),
            ("http://a:0", "the port \"0\""),
            ("http://a:", "the port \"\""),
            ("http://a:abc", "the port \"abc\""),
            ("http://a:+1", "the port \"+1\""),
            ("http://a:-1", "the port \"-1\""),
            ("http://[::1]:abc", "the port \"abc\""),
            ("http://::1:2379", "needs brackets"),
            ("http://[::1]x:1", "not a host"),
            ("http://[fe80::1%lo]:2379", "zone"),
            ("http://[db]:1", "not a host"),
            ("http://127.0.0.1.5:1", "neither an IPv4 address"),
            ("http://999.0.0.1:1", "neither an IPv4 address"),
            ("http://bücher.example:1", "xn--"),
            ("http://a\u{0}b:1", "a name cannot contain"),
            ("unix:///run/etcd.sock", "Unix socket"),
            ("unixs://etcd.sock", "Unix socket"),
        ] {
            let error = url(text).expect_err(text);
            assert!(error.contains(reason), "{text:?}: {error}");
        }
        let error = url("http://root:secret@a:1").expect_err("a password");
        assert!(
            error.contains("PALM_USER") && !error.contains("secret"),
            "{error}"
        );
    }

    #[test]
    fn hosts_are_names_or_addresses_alone() {
        for (text, meant) in [
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "::1"),
            ("::1", "::1"),
            ("0:0:0:0:0:0:0:1", "0:0:0:0:0:0:0:1"),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
            ("db.local", "db.local"),
            ("db_1.local.", "db_1.local."),
            ("3com.example", "3com.example"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(meant), "{text}");
        }
        for (text, reason) in [
            ("", "empty"),
            ("localhost:5555", "without a port"),
            ("127.0.0.1:5555", "without a port"),
            ("[::1]:5555", "without a port"),
            ("fe80::1%lo", "zone"),
            ("[fe80::1%lo]", "zone"),
            ("127.1", "neither an IPv4 address"),
            ("1.2.3.4.5", "neither an IPv4 address"),
            ("[db]", "a name cannot contain"),
            ("http://db", "without a port"),
            ("db/x", "a name cannot contain"),
            ("a b", "a name cannot contain"),
            ("a..b", "between two dots"),
            (".", "between two dots"),
            ("ä.example", "xn--"),
            ("a\u{1b}", "a name cannot contain"),
        ] {
            let error = host(text).expect_err(text);
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
