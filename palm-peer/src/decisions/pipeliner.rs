//! What clients can reach: publishes differences, and lists the servers in the log.

use super::registry::Line;
use crate::facts::{
    ids::Revision,
    pipeline::{Instance, Pipeline},
    record::Record,
};
use log::Level;
use std::collections::{BTreeMap, BTreeSet};

/// A write to `/pipelines/<server>`, to be fenced by the leader's term and by `replaces`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The server's name.
    pub server: String,
    /// What to put; `None` deletes the key.
    pub pipeline: Option<Pipeline>,
    /// The mod revision of what is replaced; `None` when nothing must be there.
    pub replaces: Option<Revision>,
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It stands, since this revision.
    Done(Revision),
    /// Something else stood there (`None`: nothing).
    Conflict(Option<Revision>),
    /// It is not known to stand; to be tried again.
    Failed,
}

/// What etcd holds under one name, as far as this leader knows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Published {
    revision: Revision,
    /// `None` for what a predecessor put: it is on the predecessor's lease, so it must be put again even if it is right.
    pipeline: Option<Pipeline>,
}

/// The pipeliner's memory. One write per name is under way at a time; changes meanwhile are coalesced into the next.
#[derive(Debug, Default)]
pub struct Pipeliner {
    published: BTreeMap<String, Published>,
    wanted: BTreeMap<String, Pipeline>,
    under_way: BTreeMap<String, Option<Pipeline>>,
}

impl Pipeliner {
    /// A new leader's pipeliner, which found these names and mod revisions under `/pipelines/`.
    #[must_use]
    pub fn new(found: impl IntoIterator<Item = (String, Revision)>) -> Self {
        let published =
            found.into_iter().map(|(server, revision)| (server, Published { revision, pipeline: None })).collect();
        Self { published, ..Self::default() }
    }

    /// Sets what shall be reachable.
    pub fn want<'a>(&mut self, reachable: impl IntoIterator<Item = &'a Record>) {
        self.wanted = pipelines(reachable);
    }

    /// The writes that are due now. Each must be answered by [`Pipeliner::written`].
    pub fn writes(&mut self) -> Vec<Write> {
        let names: BTreeSet<&String> = self.wanted.keys().chain(self.published.keys()).collect();
        let mut due = Vec::new();
        for server in names {
            let wanted = self.wanted.get(server);
            let published = self.published.get(server);
            let right = match (wanted, published) {
                (None, None) => true,
                (wanted, Some(published)) => wanted.is_some() && published.pipeline.as_ref() == wanted,
                (Some(_), None) => false,
            };
            if !right && !self.under_way.contains_key(server) {
                let replaces = published.map(|published| published.revision);
                due.push(Write { server: server.clone(), pipeline: wanted.cloned(), replaces });
            }
        }
        self.under_way.extend(due.iter().map(|write| (write.server.clone(), write.pipeline.clone())));
        due
    }

    /// Takes in how the write for `server` ended.
    pub fn written(&mut self, server: &str, outcome: Outcome) {
        let Some(pipeline) = self.under_way.remove(server) else { return };
        let published = match outcome {
            Outcome::Failed => return,
            Outcome::Done(_) if pipeline.is_none() => None,
            Outcome::Done(revision) => Some(Published { revision, pipeline }),
            Outcome::Conflict(found) => found.map(|revision| Published { revision, pipeline: None }),
        };
        match published {
            Some(published) => self.published.insert(server.to_owned(), published),
            None => self.published.remove(server),
        };
    }

    /// Whether all that is wanted is published, and nothing else.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.under_way.is_empty()
            && self.published.len() == self.wanted.len()
            && self.wanted.iter().all(|(server, wanted)| {
                self.published.get(server).is_some_and(|published| published.pipeline.as_ref() == Some(wanted))
            })
    }
}

fn pipelines<'a>(reachable: impl IntoIterator<Item = &'a Record>) -> BTreeMap<String, Pipeline> {
    let mut by_name: BTreeMap<String, Vec<&Record>> = BTreeMap::new();
    for record in reachable {
        by_name.entry(record.server.clone()).or_default().push(record);
    }
    by_name.into_iter().map(|(server, records)| (server.clone(), pipeline(server, records))).collect()
}

fn pipeline(server: String, mut records: Vec<&Record>) -> Pipeline {
    records.sort_by_key(|record| (record.when, record.uuid));
    let mut functions: Vec<String> = Vec::new();
    for function in records.iter().flat_map(|record| &record.functions) {
        if !functions.contains(function) {
            functions.push(function.clone());
        }
    }
    records.sort_by_key(|record| record.uuid);
    let instance = |record: &&Record| Instance {
        uuid: record.uuid,
        endpoint: record.endpoint(),
        functions: record.functions.clone(),
    };
    Pipeline { server, functions, instances: records.iter().map(instance).collect() }
}

/// The list of servers as the guide prints it.
pub fn list<'a>(reachable: impl IntoIterator<Item = &'a Record>) -> Vec<Line> {
    let line = |text: &str| Line::new(Level::Info, text);
    let mut servers: Vec<Line> = reachable
        .into_iter()
        .map(|record| {
            let functions: Vec<_> = record.functions.iter().map(|name| format!("'{name}'")).collect();
            line(&format!(
                "{}: Server {} of type {}, implements [{}]",
                record.uuid,
                record.server,
                record.kind,
                functions.join(", ")
            ))
        })
        .collect();
    let mut lines = Vec::with_capacity(servers.len() + 3);
    if servers.is_empty() {
        lines.push(Line::critical("You have no server running"));
    }
    lines.push(line("***** List of servers *****"));
    lines.append(&mut servers);
    lines.push(line("***************************"));
    lines
}

#[cfg(test)]
mod tests;
