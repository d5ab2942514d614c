//! Environment variables that look like a misspelt setting.

use super::{Config, Setting};
use strsim::levenshtein;

/// The maximum edit distance of a misspelt name from a known one; less for short names.
const MAX_DISTANCE: usize = 2;
/// The prefix of all variables.
const PREFIX: &str = "PALM_";

/// Returns each name that is nearly that of a variable, with the one that was probably meant. Other
/// names may be the program's own.
pub(super) fn misspelt(names: impl IntoIterator<Item = String>) -> Vec<(String, String)> {
    let known: Vec<_> = Config::SETTINGS
        .iter()
        .map(Setting::variable)
        .chain(["PALM_LOG", "PALM_LOG_FORMAT"].map(str::to_owned))
        .collect();
    let nearest = |name: &String| {
        if known.contains(name) || !name.to_ascii_uppercase().starts_with("PALM") {
            return None;
        }
        let near = known
            .iter()
            .map(|known| (levenshtein(&name.to_ascii_uppercase(), known), known));
        near.filter(|(distance, known)| {
            *distance <= MAX_DISTANCE.min((known.len() - PREFIX.len()) / 2)
        })
        .min()
        .map(|(_, known)| known.clone())
    };
    let mut found: Vec<_> = names
        .into_iter()
        .filter_map(|name| Some((nearest(&name)?, name)))
        .collect();
    found.sort();
    found
        .into_iter()
        .map(|(meant, name)| (name, meant))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_variables_are_found_and_unrelated_ones_are_not() {
        let names = [
            "PALM_ETDC",
            "PALM_PROBE_PERIODE",
            "palm_port",
            "PALM_LOGS",
            "PALMPREFIX",
            "PALM_PROBE_TIMEOUT",
        ];
        let own = ["PALM_TESTS_PYTHON", "PALM_SPRINGS", "HOME", "PORT", "PALM_"];
        let found = misspelt(names.iter().chain(&own).map(ToString::to_string));
        let wanted = [
            ("PALM_ETDC", "PALM_ETCD"),
            ("PALM_LOGS", "PALM_LOG"),
            ("palm_port", "PALM_PORT"),
            ("PALMPREFIX", "PALM_PREFIX"),
            ("PALM_PROBE_PERIODE", "PALM_PROBE_PERIOD"),
        ];
        assert_eq!(
            found,
            wanted.map(|(name, meant)| (name.to_owned(), meant.to_owned()))
        );
    }
}
