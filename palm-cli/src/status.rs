//! `palm-cli status`: shows the servers.

use crate::{
    args::Status,
    error::{CliError, warn},
    find::find,
    screen::{Screen, harmless, reader_gone},
    table,
};
use futures::{
    StreamExt as _,
    future::{Either, select},
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
        return watch(admin, screen).await;
    }
    let entries = admin.servers().await?;
    match &status.server {
        Some(server) => record(find(&entries, server)?, screen),
        None if status.json => Ok(json(&entries, screen)?),
        None => Ok(picture(&entries, screen)?),
    }
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

/// Prints all records as one JSON array: each as it is stored, invalid ones as `{"key", "broken"}`.
fn json(entries: &[ServerEntry], screen: &mut Screen) -> io::Result<()> {
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
fn picture(entries: &[ServerEntry], screen: &mut Screen) -> io::Result<()> {
    if !entries.is_empty() {
        let rows = table::rows(entries, SystemTime::now().into());
        let (widths, width) = (table::widths(&rows), screen.width());
        for row in &rows {
            let text = match row.state {
                Some(state) => row.text(&widths, width, |message| screen.state(state, message)),
                None => screen.heading(&row.text(&widths, width, str::to_owned)),
            };
            screen.line(&text)?;
        }
    }
    screen.line(&table::summary(entries))
}

/// Prints the table, and again at every change, until the program is stopped.
async fn watch(admin: &Admin, screen: &mut Screen) -> Result<(), CliError> {
    let mut changes = admin.watch();
    let mut gone = reader_gone();
    let mut first = true;
    loop {
        let change = match select(changes.next(), &mut gone).await {
            Either::Left((Some(change), _)) => change,
            Either::Left((None, _)) => return Ok(()),
            Either::Right(_) => return Err(CliError::Unread),
        };
        match change {
            Ok(entries) => {
                screen.redraw(first)?;
                picture(&entries, screen)?;
                first = false;
            }
            Err(error) => {
                warn(&format!("the list may be out of date: {error}"));
            }
        }
        screen.flush()?;
    }
}
