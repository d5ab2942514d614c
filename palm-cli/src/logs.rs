//! `palm-cli logs`: the latest log lines of servers, and what the leader logs.

mod reader;

use self::reader::{Entry, Reader};
use crate::{
    args::Logs,
    error::{CliError, warn},
    find::{find, matching, selected},
    screen::{Screen, harmless, reader_gone},
};
use futures::{FutureExt as _, StreamExt as _, stream};
use palm_peer::{Admin, Client, Config, ServerEntry, ServerStatus};
use std::{thread, time::Duration};

/// How often the servers are asked.
const EVERY: Duration = Duration::from_millis(500);
/// How many servers are asked at once.
const AT_ONCE: usize = 64;
/// What the leader logs, whichever server leads.
const OF_LEADER: [&str; 2] = ["registry", "pipeliner"];

/// Runs the command.
pub(crate) async fn run(logs: &Logs, config: Config, screen: &mut Screen) -> Result<(), CliError> {
    let admin = Admin::connect(config.clone()).await?;
    let client = Client::connect(config).await?;
    let mut entries = admin.servers().await?;
    let of_leader = logs.of.as_deref().filter(|of| OF_LEADER.contains(of));
    if let Some(of) = logs.of.as_deref().filter(|_| of_leader.is_none())
        && matching(&entries, of).is_empty()
    {
        // The error says what there is.
        find(&entries, of)?;
    }
    let mut readers = Readers {
        target: of_leader.map(str::to_owned),
        all: Vec::new(),
    };
    let mut lines = readers.read(logs, &entries, &client).await;
    let skipped = lines.len().saturating_sub(logs.lines.unwrap_or(usize::MAX));
    lines.drain(..skipped);
    let mut gone = reader_gone();
    loop {
        for line in lines {
            screen.line(&line.text())?;
        }
        screen.flush()?;
        if !logs.follow {
            return readers.ended();
        }
        // Nothing else runs on this thread.
        thread::sleep(EVERY);
        if (&mut gone).now_or_never().is_some() {
            return Err(CliError::Unread);
        }
        match admin.servers().await {
            Ok(now) => entries = now,
            // The servers that are known can be asked nevertheless.
            Err(error) => warn(&format!("the servers may be out of date: {error}")),
        }
        lines = readers.read(logs, &entries, &client).await;
    }
}

/// The servers whose logs are read.
struct Readers {
    /// Only the lines of this target, of whichever server leads.
    target: Option<String>,
    all: Vec<Reader>,
}

impl Readers {
    /// Returns what was logged since the last time, in the order of time.
    async fn read(&mut self, logs: &Logs, entries: &[ServerEntry], client: &Client) -> Vec<Entry> {
        let is_first = self.all.is_empty();
        let of = logs.of.as_deref().filter(|_| self.target.is_none());
        let chosen = selected(entries, of);
        for entry in &chosen {
            if self.all.iter().all(|reader| reader.uuid != entry.name)
                && let Some(reader) = Reader::of(entry)
            {
                self.all.push(reader);
            }
        }
        self.all
            .retain(|reader| chosen.iter().any(|entry| entry.name == reader.uuid));
        let target = self.target.clone();
        let leads = |reader: &Reader| {
            let mut entries = entries.iter();
            entries.any(|entry| entry.name == reader.uuid && entry.state == ServerStatus::Leader)
        };
        // Of the leader's lines, all servers are asked once: any may have led before.
        let asked = self
            .all
            .iter_mut()
            .filter(|reader| target.is_none() || is_first || reader.has_lines || leads(reader));
        let pages = stream::iter(asked)
            .map(|reader| reader.read(client, target.as_deref()))
            .buffer_unordered(AT_ONCE);
        let mut lines: Vec<Entry> = pages.collect::<Vec<_>>().await.concat();
        lines.sort_by_key(|line| line.line.when);
        lines
    }

    /// Returns an error if some server did not answer.
    fn ended(&self) -> Result<(), CliError> {
        let silent = self.all.iter().filter(|reader| reader.failed).count();
        if silent == 0 {
            return Ok(());
        }
        Err(CliError::CouldNot(format!(
            "{silent} of {} servers did not answer",
            self.all.len()
        )))
    }
}

impl Entry {
    /// Returns the line as it is printed.
    fn text(&self) -> String {
        let when = self.line.when.to_string();
        // Milliseconds are enough.
        let when = when.get(..23).unwrap_or(&when);
        harmless(&format!(
            "{when} {} {}:{}:{}",
            self.of, self.line.level, self.line.target, self.line.message
        ))
    }
}
