//! Escaping of untrusted text before it is logged or printed.

use std::{
    any::Any,
    fmt::{self, Write as _},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Returns whether the character controls the terminal or the direction of the text around it,
/// instead of being displayed.
#[must_use]
pub fn steers(c: char) -> bool {
    // No log line needs the characters that change the direction of text.
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns the text in one line, with control characters escaped as `\n`, `\r` or `\xHH`. A text
/// longer than `max` bytes is cut.
pub(crate) fn plain(text: &str, max: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        if shown.len() + c.len_utf8() > max {
            shown.push('…');
            break;
        }
        match c {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            c if steers(c) => {
                // Writing to a String cannot fail.
                let _ = write!(shown, "\\x{:02x}", u32::from(c));
            }
            c => shown.push(c),
        }
    }
    shown
}

/// Returns the text of a user's value. Its formatting may fail or panic; then the text says so.
#[must_use]
pub fn formatted(value: fmt::Arguments<'_>) -> String {
    let mut text = String::new();
    match catch_unwind(AssertUnwindSafe(|| text.write_fmt(value))) {
        Ok(Ok(())) => {}
        Ok(Err(_)) => text.push_str("(a value could not be formatted)"),
        Err(panic) => {
            let _ = write!(
                text,
                "(formatting a value panicked: {})",
                panic_message(panic)
            );
        }
    }
    text
}

/// Returns the message of a panic, if it has one. Its value is dropped, even if that panics again.
#[must_use]
pub fn panic_message(panic: Box<dyn Any + Send>) -> String {
    let message = message_in(&*panic).to_owned();
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        #[expect(
            clippy::mem_forget,
            reason = "dropping that value could panic in turn, without end"
        )]
        mem::forget(another);
    }
    message
}

/// Returns the message in the value of a panic, if it has one.
#[must_use]
pub fn message_in(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::panic_any;

    struct Bad(bool);

    impl fmt::Display for Bad {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            assert!(!self.0, "on purpose");
            Err(fmt::Error)
        }
    }

    #[test]
    fn values_whose_formatting_panics_are_named() {
        assert_eq!(formatted(format_args!("a {}", 1)), "a 1");
        assert_eq!(
            formatted(format_args!("a {}, b", Bad(false))),
            "a (a value could not be formatted)"
        );
        assert_eq!(
            formatted(format_args!("a {}, b", Bad(true))),
            "a (formatting a value panicked: on purpose)"
        );
    }

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic_any(Bomb);
        }
    }

    #[test]
    fn a_panic_value_that_panics_when_dropped_is_contained() {
        let panic = catch_unwind(|| panic_any(Bomb)).expect_err("a panic");
        assert_eq!(panic_message(panic), "a panic without a message");
    }

    #[test]
    fn control_characters_are_escaped_and_long_text_is_cut() {
        assert_eq!(plain("I,D,W ä\\x1b", 100), "I,D,W ä\\x1b");
        assert_eq!(
            plain("\u{1b}]0;a\u{7}\u{9b}31m\r\nb\u{202e}c\0", 100),
            "\\x1b]0;a\\x07\\x9b31m\\r\\nb\\x202ec\\x00"
        );
        assert_eq!(plain("äöü", 4), "äö…");
        assert_eq!(plain("äöü", 5), "äö…");
        assert_eq!(plain("", 0), "");
    }
}
