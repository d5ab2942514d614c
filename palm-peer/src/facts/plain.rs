//! The words of others, for people to read.

use std::fmt::Write as _;

/// Whether the character steers a terminal, or how the text around it is shown, instead of being shown.
#[must_use]
pub fn steers(c: char) -> bool {
    // Of those that turn the direction of text around, none has a place in a line of log.
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text in one line, without what could steer a terminal: such characters are written as `\n`, `\r` or `\xHH`. What is
/// longer than `most` bytes is cut.
#[must_use]
pub fn plain(text: &str, most: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(most));
    for c in text.chars() {
        if shown.len() + c.len_utf8() > most {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_is_written_out_and_what_is_long_is_cut() {
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
