//! Valid names of servers, kinds and functions.

/// The built-in functions of every server, in the order of the record.
pub const BUILT_IN: [&str; 6] = ["_ping", "_log_query", "get", "set", "append", "delete"];

/// The longest name, in bytes. A record holds many names, and etcd refuses values over 1.5 MiB.
pub const LONGEST: usize = 128;

/// Returns whether `name` is valid for a server, a kind or a function: ASCII letters, digits, `_`
/// and `-`, at most [`LONGEST`] bytes. A dot would make `server.function` ambiguous, a slash would
/// change the key's prefix.
#[must_use]
pub fn is_valid(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= LONGEST
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// The longest label, in bytes.
pub const MAX_LABEL_BYTES: usize = 64;

/// The maximum number of tags of a server.
pub const MAX_TAGS: usize = 32;

/// Returns whether `text` is valid as a version, a zone or a tag: visible ASCII characters without
/// commas, which separate the tags in a setting; at most [`MAX_LABEL_BYTES`] bytes.
#[must_use]
pub fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_LABEL_BYTES
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b',')
}

/// Returns why `text` is not a valid label.
#[must_use]
pub fn no_label(text: &str) -> String {
    format!(
        "{text:?} is not valid: use 1 to {MAX_LABEL_BYTES} visible ASCII characters, without commas"
    )
}

/// Returns whether this name is reserved for built-in functions. Those added after [`BUILT_IN`] are
/// not listed in records.
#[must_use]
pub fn is_reserved(function: &str) -> bool {
    function.starts_with('_')
}

/// Splits `server.function` (or `<uuid>.function`) into its two names.
#[must_use]
pub fn split_target(target: &str) -> Option<(&str, &str)> {
    target
        .split_once('.')
        .filter(|(server, function)| is_valid(server) && is_valid(function))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short_and_visible() {
        for label in [
            "1",
            "1.4.2+build-7",
            "eu-central-1a",
            "gpu=a100",
            &"z".repeat(64),
        ] {
            assert!(is_label(label), "{label:?}");
        }
        for wrong in [
            "",
            " ",
            "a b",
            "a,b",
            "zürich",
            "a\u{1b}[2J",
            &"z".repeat(65),
        ] {
            assert!(!is_label(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn targets_are_two_names_and_a_dot() {
        assert_eq!(split_target("printf.printf"), Some(("printf", "printf")));
        assert_eq!(
            split_target("e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4.get"),
            Some(("e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4", "get"))
        );
        for wrong in ["", ".", "a", "a.", ".b", "a.b.c", "a/b.c", "a b.c", "ä.b"] {
            assert_eq!(split_target(wrong), None, "{wrong:?}");
        }
    }
}
