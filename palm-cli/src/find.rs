//! Finding an entry by its name or the beginning of its name.

use crate::{error::CliError, screen::harmless};
use palm_peer::ServerEntry;
use std::fmt::Write as _;

/// The minimum length of an abbreviated uuid.
const SHORTEST: usize = 4;
/// How many candidates are listed; the rest is only counted.
const LISTED: usize = 20;

/// Returns the entry of this name, or the only one whose name begins with it.
pub(crate) fn find<'a>(
    entries: &'a [ServerEntry],
    wanted: &str,
) -> Result<&'a ServerEntry, CliError> {
    let lower = wanted.to_ascii_lowercase();
    if let Some(entry) = entries
        .iter()
        .find(|entry| entry.name == wanted || entry.name == lower)
    {
        return Ok(entry);
    }
    if wanted.chars().count() < SHORTEST {
        let message = format!(
            "{:?} is too short: give {SHORTEST} characters of the uuid, or more",
            harmless(wanted)
        );
        return Err(CliError::Usage(message));
    }
    let begins =
        |entry: &&ServerEntry| entry.name.starts_with(wanted) || entry.name.starts_with(&lower);
    let able: Vec<_> = entries.iter().filter(begins).collect();
    let shown = harmless(wanted);
    match able[..] {
        [entry] => Ok(entry),
        [] if entries.is_empty() => Err(CliError::CouldNot(format!(
            "no server {shown}: the mesh has no servers"
        ))),
        [] => Err(CliError::CouldNot(format!(
            "no server {shown}; there are{}",
            list(&entries.iter().collect::<Vec<_>>())
        ))),
        _ => Err(CliError::CouldNot(format!(
            "{shown} matches {} servers:{}",
            able.len(),
            list(&able)
        ))),
    }
}

fn list(entries: &[&ServerEntry]) -> String {
    let mut lines = String::new();
    for entry in entries.iter().take(LISTED) {
        // Writing to a string cannot fail.
        let _ = write!(lines, "\n  {}", describe(entry));
    }
    if entries.len() > LISTED {
        let _ = write!(lines, "\n  and {} more", entries.len() - LISTED);
    }
    lines
}

/// Returns a short description of an entry: `<uuid> (printf at tcp://127.0.0.1:5555)`.
pub(crate) fn describe(entry: &ServerEntry) -> String {
    let name = harmless(&entry.name);
    match &entry.record {
        Ok(record) => format!(
            "{name} ({} at {})",
            record.server,
            harmless(&record.endpoint())
        ),
        Err(_) => format!("{name} (broken)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palm_peer::ServerStatus;

    fn entries(names: &[&str]) -> Vec<ServerEntry> {
        let entry =
            |name: &&str| ServerEntry::new(format!("/servers/{name}"), "", ServerStatus::Broken);
        names.iter().map(entry).collect()
    }

    #[test]
    fn a_full_name_or_an_unambiguous_prefix_is_enough() {
        let entries = entries(&["abcd1111", "abcd2222", "abcd", "x", "ABCD2222-upper"]);
        for (wanted, name) in [
            ("abcd1", "abcd1111"),
            ("abcd", "abcd"),
            ("x", "x"),
            ("ABCD1111", "abcd1111"),
            ("abcd22", "abcd2222"),
        ] {
            assert_eq!(
                find(&entries, wanted).map(|entry| entry.name.as_str()).ok(),
                Some(name),
                "{wanted}"
            );
        }
    }

    #[test]
    fn an_ambiguous_or_unknown_name_lists_the_candidates() {
        let many: Vec<_> = (0..30).map(|n| format!("abcd-{n:02}")).collect();
        let entries = entries(&many.iter().map(String::as_str).collect::<Vec<_>>());
        let message = |wanted: &str| match find(&entries, wanted) {
            Err(CliError::CouldNot(message)) => message,
            other => panic!("{wanted}: {other:?}"),
        };
        assert!(message("abcd").starts_with("abcd matches 30 servers:\n  abcd-00 (broken)\n"));
        assert!(message("abcd").ends_with("\n  abcd-19 (broken)\n  and 10 more"));
        assert!(message("printf").starts_with("no server printf; there are\n  abcd-00"));
        assert!(matches!(find(&entries, "abc"), Err(CliError::Usage(_))));
        assert!(
            matches!(find(&[], "abcd"), Err(CliError::CouldNot(message)) if message.contains("has no servers"))
        );
    }
}
