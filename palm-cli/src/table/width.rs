//! How many columns of a terminal a text takes.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Returns how many columns the text takes: letters of East Asian scripts take two, combining
/// characters none.
pub(crate) fn columns(text: &str) -> usize {
    text.width()
}

/// Returns the beginning of the text that fits `max` columns, ending in `…` if there is more.
pub(crate) fn cut(text: &str, max: usize) -> String {
    if columns(text) <= max {
        return text.to_owned();
    }
    let mut cut = fitting(text.chars(), max.saturating_sub(1));
    if max > 0 {
        cut.push('…');
    }
    cut
}

/// Returns the end of the text that fits `max` columns, after `…` if there is more: the end of an
/// endpoint is its port.
pub(crate) fn cut_front(text: &str, max: usize) -> String {
    if columns(text) <= max || max == 0 {
        return cut(text, max);
    }
    let end = fitting(text.chars().rev(), max - 1);
    std::iter::once('…').chain(end.chars().rev()).collect()
}

/// Returns the characters that fit `max` columns.
fn fitting(chars: impl Iterator<Item = char>, max: usize) -> String {
    let mut taken = 0;
    chars
        .take_while(|c| {
            taken += c.width().unwrap_or(0);
            taken <= max
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_by_columns_and_not_by_characters() {
        for (text, max, front, end) in [
            ("abc", 3, "abc", "abc"),
            ("abcd", 3, "ab…", "…cd"),
            ("abcd", 1, "…", "…"),
            ("abcd", 0, "", ""),
            ("日本語", 6, "日本語", "日本語"),
            ("日本語", 5, "日本…", "…本語"),
            ("日本語", 4, "日…", "…語"),
        ] {
            let found = (cut(text, max), cut_front(text, max));
            assert_eq!(found, (front.to_owned(), end.to_owned()), "{text} {max}");
            assert!(columns(&found.0) <= max && columns(&found.1) <= max);
        }
    }
}
