//! `palm-cli status`: shows the servers.

mod watch;

use crate::{
    args::Status,
    error::{CliError, warn},
    find::{find, named, selected},
    screen::{Screen, harmless},
    table::{self, Room, Table},
};
use palm_peer::{Admin, ServerEntry};
use std::{io, time::SystemTime};

/// Runs the command.
pub(crate) async fn run(
    status: &Status,
    admin: &Admin,
    screen: &mut Screen,
) -> Result<(), CliError> {
    if status.watch {
        return watch::run(status, admin, screen).await;
    }
    let all = admin.servers().await?;
    let shown = match chosen(status, &all)? {
        Chosen::Record(entry) => return record(entry, screen),
        Chosen::List(shown) => shown,
    };
    if status.json {
        json(&shown, screen)?;
    } else {
        picture(&shown, &all, status.wide, screen)?;
    }
    Ok(())
}

/// What is shown.
enum Chosen<'a> {
    /// The record of one server.
    Record(&'a ServerEntry),
    /// A list of servers.
    List(Vec<&'a ServerEntry>),
}

/// Returns what is shown: a uuid selects the record of that server, and a name the list of its
/// instances. With `--json`, `--wide`, `--zone` or `--tag`, both select a list.
fn chosen<'a>(status: &Status, all: &'a [ServerEntry]) -> Result<Chosen<'a>, CliError> {
    let Some(wanted) = &status.server else {
        return Ok(Chosen::List(listed(status, all)));
    };
    let is_name = !named(all, wanted).is_empty() && all.iter().all(|entry| entry.name != *wanted);
    let is_list = status.json || status.wide || status.zone.is_some() || status.tag.is_some();
    if !is_name && !is_list {
        return find(all, wanted).map(Chosen::Record);
    }
    if selected(all, Some(wanted)).is_empty() {
        // The error says what there is.
        find(all, wanted)?;
    }
    Ok(Chosen::List(listed(status, all)))
}

/// Returns the servers that are listed: those of the name, the zone and the tag.
fn listed<'a>(status: &Status, all: &'a [ServerEntry]) -> Vec<&'a ServerEntry> {
    let (zone, tag) = (status.zone.as_deref(), status.tag.as_deref());
    let mut listed = selected(all, status.server.as_deref());
    listed.retain(|entry| match &entry.record {
        Ok(record) => {
            (zone.is_none() || record.zone() == zone)
                && tag.is_none_or(|tag| record.tags().contains(&tag))
        }
        Err(_) => zone.is_none() && tag.is_none(),
    });
    listed
}

/// Prints the record of one server as it is stored.
fn record(entry: &ServerEntry, screen: &mut Screen) -> Result<(), CliError> {
    if let Err(reason) = &entry.record {
        // The stored value is printed nevertheless.
        warn(&format!(
            "{} is broken: {}",
            entry.name,
            table::brief(&reason.to_string())
        ));
        if screen.terminal {
            return Ok(screen.line(&visible(&entry.stored))?);
        }
    }
    screen.raw(&entry.stored)?;
    Ok(screen.end_line(&entry.stored)?)
}

/// Returns bytes as text for a terminal, with control characters escaped.
fn visible(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .lines()
        .map(harmless)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Prints records as one JSON array: each as it is stored, invalid ones as `{"key", "broken"}`.
fn json(entries: &[&ServerEntry], screen: &mut Screen) -> io::Result<()> {
    screen.raw(b"[")?;
    for (place, entry) in entries.iter().enumerate() {
        screen.raw(if place == 0 { b"\n" } else { b",\n" })?;
        match &entry.record {
            // JSON escapes most control characters, but not all.
            Ok(_) if screen.terminal => screen.raw(visible(&entry.stored).as_bytes())?,
            Ok(_) => screen.raw(&entry.stored)?,
            Err(reason) => {
                let reason = table::brief(&reason.to_string());
                let broken = serde_json::json!({ "key": entry.key, "broken": reason });
                screen.raw(broken.to_string().as_bytes())?;
            }
        }
    }
    screen.raw(if entries.is_empty() { b"]\n" } else { b"\n]\n" })
}

/// Prints the table and its summary.
fn picture(
    shown: &[&ServerEntry],
    all: &[ServerEntry],
    wide: bool,
    screen: &mut Screen,
) -> io::Result<()> {
    let room = Room {
        width: screen.width(),
        wide,
    };
    let table = Table::new(shown, all, SystemTime::now().into(), room);
    if !shown.is_empty() {
        for line in table.lines() {
            let text = match line.state {
                Some(state) => line.text(|cell| screen.state(state, cell)),
                None => screen.heading(&line.text(str::to_owned)),
            };
            screen.line(&text)?;
        }
    }
    screen.line(&table.summary())
}
