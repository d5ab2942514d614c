//! What a misspelt word was meant to be.

/// The maximum edit distance of a misspelt word; less for short ones.
const MAX_DISTANCE: usize = 2;

/// Returns the word that is nearest to this one, if one is near enough. Two letters in the wrong
/// order count as one mistake.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let max = MAX_DISTANCE.min(word.trim_start_matches('-').chars().count() / 2);
    let near = known.into_iter().map(|known| {
        let distance = strsim::osa_distance(word, known);
        // The beginning of a word is a frequent abbreviation of it.
        let is_start = word.len() >= 3 && known.starts_with(word);
        let distance = if is_start { 1 } else { distance };
        (distance, !is_start, known.len().abs_diff(word.len()), known)
    });
    near.filter(|(distance, ..)| (1..=max).contains(distance))
        .min()
        .map(|(.., known)| known)
}

/// Returns ` (did you mean …?)`, or nothing when no word is near enough.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |known| format!(" (did you mean {known}?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_words_are_suggested() {
        let known = [
            "status", "stats", "rm", "reset", "call", "job", "--watch", "--json",
        ];
        for (word, meant) in [
            ("stauts", Some("status")),
            ("stat", Some("stats")),
            ("statu", Some("status")),
            ("statuss", Some("status")),
            ("cal", Some("call")),
            ("--wacht", Some("--watch")),
            ("--jsn", Some("--json")),
            ("mr", Some("rm")),
            ("x", None),
            ("delete", None),
            ("--colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }
}
