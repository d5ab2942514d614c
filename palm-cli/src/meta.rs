//! Metadata on the command line, and on stderr.

use palm_peer::Meta;
use std::{
    io::{self, Write as _},
    str::FromStr,
};

/// An entry of metadata, as `name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub name: String,
    pub value: String,
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self {
                name: name.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err(format!(
                "{text:?} is not a name and a value, such as user=ada"
            )),
        }
    }
}

/// Prints metadata to stderr: a line for each entry, after this prefix.
pub(crate) fn show(prefix: &str, meta: &Meta) {
    for (name, value) in meta.iter() {
        let line = format!("{prefix}{}={}", one_line(name), one_line(value));
        // The exit status remains if stderr is closed.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Returns a text with control characters and backslashes escaped.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || c == '\\' {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_name_and_any_value() {
        let entry = |text: &str| text.parse::<Entry>();
        let parsed = entry("user=ada=x").expect("a name and a value");
        assert_eq!((&*parsed.name, &*parsed.value), ("user", "ada=x"));
        assert_eq!(entry("user=").expect("an empty value").value, "");
        for invalid in ["", "user", "=ada"] {
            assert!(entry(invalid).is_err_and(|error| error.contains("user=ada")));
        }
    }

    #[test]
    fn text_is_one_line() {
        let text = "a\tb\nc\\d é\u{1b}";
        assert_eq!(one_line(text), "a\\tb\\nc\\\\d é\\u{1b}");
    }
}
