//! Finding an entry by its name or the beginning of its name.

use crate::{error::CliError, screen::harmless, suggest::did_you_mean, table::counted};
use palm_peer::{Record, ServerEntry};
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
    let shown = harmless(wanted);
    let instances = named(entries, wanted);
    if !instances.is_empty() {
        return Err(CliError::CouldNot(format!(
            "{shown} is the name of {}: give the uuid, or its first {SHORTEST} characters or more:{}",
            counted(instances.len(), "server"),
            list(&instances)
        )));
    }
    if wanted.chars().count() < SHORTEST {
        let message = format!(
            "{shown:?} is no server's name, and too short for a uuid: give {SHORTEST} characters of it, or more"
        );
        return Err(CliError::Usage(message));
    }
    let begins = |entry: &&ServerEntry| begins(entry, wanted);
    let able: Vec<_> = entries.iter().filter(begins).collect();
    match able[..] {
        [entry] => Ok(entry),
        [] if entries.is_empty() => Err(CliError::CouldNot(format!(
            "no server {shown}: the mesh has no servers"
        ))),
        [] => Err(CliError::CouldNot(format!(
            "no server {shown}{}; there are{}",
            did_you_mean(wanted, server_names(entries)),
            list(&entries.iter().collect::<Vec<_>>())
        ))),
        _ => Err(CliError::CouldNot(format!(
            "{shown} matches {} servers:{}",
            able.len(),
            list(&able)
        ))),
    }
}

/// Returns the servers of this name.
pub(crate) fn named<'a>(entries: &'a [ServerEntry], name: &str) -> Vec<&'a ServerEntry> {
    let is_named = |entry: &&ServerEntry| {
        let record = entry.record.as_ref();
        record.is_ok_and(|record| record.server == name)
    };
    entries.iter().filter(is_named).collect()
}

/// Returns the servers of this name; if there are none, those whose uuids begin with it.
pub(crate) fn matching<'a>(entries: &'a [ServerEntry], wanted: &str) -> Vec<&'a ServerEntry> {
    let names = named(entries, wanted);
    if !names.is_empty() {
        return names;
    }
    let is_long = wanted.chars().count() >= SHORTEST;
    let matches = |entry: &&ServerEntry| entry.name == wanted || (is_long && begins(entry, wanted));
    entries.iter().filter(matches).collect()
}

/// Returns the entries that [`matching`] finds, or all when none is named.
pub(crate) fn selected<'a>(
    entries: &'a [ServerEntry],
    wanted: Option<&str>,
) -> Vec<&'a ServerEntry> {
    match wanted {
        Some(wanted) => matching(entries, wanted),
        None => entries.iter().collect(),
    }
}

/// Returns the record of a server that can be asked about itself, also if it is not ready for other
/// calls: a leader has reached it.
pub(crate) fn askable(entry: &ServerEntry) -> Option<&Record> {
    let record = entry.record.as_ref().ok()?;
    record.configured.then_some(record)
}

/// Returns whether the entry's name begins with this, whatever the case of a uuid.
fn begins(entry: &ServerEntry, wanted: &str) -> bool {
    entry.name.starts_with(wanted) || entry.name.starts_with(&wanted.to_ascii_lowercase())
}

fn server_names(entries: &[ServerEntry]) -> impl Iterator<Item = &str> {
    let records = entries
        .iter()
        .filter_map(|entry| entry.record.as_ref().ok());
    records.map(|record| record.server.as_str())
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
            message("12345678").starts_with("no server 12345678; there are\n"),
            "nothing is like it"
        );
        assert!(
            matches!(find(&[], "abcd"), Err(CliError::CouldNot(message)) if message.contains("has no servers"))
        );
    }

    fn server(uuid: &str, server: &str) -> ServerEntry {
        let stored = format!(
            r#"{{"host": "127.0.0.1", "pid": 1, "when": "2016-02-16T11:28:59.088608", "leader": null,
            "server": "{server}", "ports": [5555], "kind": "registered", "functions": [],
            "uuid": "{uuid}", "configured": true}}"#
        );
        ServerEntry::new(format!("/servers/{uuid}"), stored, ServerStatus::Configured)
    }

    #[test]
    fn the_name_of_a_server_is_told_from_a_uuid() {
        let (one, two) = (
            "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4",
            "f5cd88f7-0f5c-4278-bcc9-fa8caefadbb4",
        );
        let entries = [server(one, "text"), server(two, "printf")];
        let message = |wanted: &str| match find(&entries, wanted) {
            Err(CliError::CouldNot(message)) => message,
            other => panic!("{wanted}: {other:?}"),
        };
        assert_eq!(
            message("text"),
            format!(
                "text is the name of 1 server: give the uuid, or its first 4 characters or more:\n  \
                 {one} (text at tcp://127.0.0.1:5555)"
            )
        );
        assert!(message("txet").starts_with("no server txet (did you mean text?); there are\n"));
        for (wanted, found) in [
            ("text", &[one][..]),
            ("F5CD", &[two]),
            ("f5c", &[]),
            ("other", &[]),
        ] {
            let names = matching(&entries, wanted);
            let names: Vec<_> = names.iter().map(|entry| entry.name.as_str()).collect();
            assert_eq!(names, found, "{wanted}");
        }
    }
}
