//! Completion of command lines: what a shell asks for with `palm-cli __complete WORD…`.

use self::Wanted::These;
use crate::{
    args::{Completion, Shell, info, mesh_config, mesh_settings},
    error::CliError,
    screen::{Screen, harmless},
    table::counted,
};
use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind};
use palm_peer::{Admin, ServerEntry};
use std::{collections::BTreeMap, time::Duration};

/// How long etcd may take: a person waits.
const WITHIN: Duration = Duration::from_secs(1);
/// The built-in functions are offered only when the server's name is written.
const BUILT_IN: [&str; 6] = ["_ping", "_log_query", "get", "set", "append", "delete"];

/// Prints the script of a shell.
pub(crate) fn script(completion: &Completion, screen: &mut Screen) -> Result<(), CliError> {
    let script = match completion.shell {
        Shell::Bash => include_str!("../completions/palm-cli.bash"),
        Shell::Zsh => include_str!("../completions/palm-cli.zsh"),
        Shell::Fish => include_str!("../completions/palm-cli.fish"),
    };
    Ok(screen.raw(script.as_bytes())?)
}

/// Prints the candidates for the last of these words, one a line, each with a description after
/// a tab if there is one. Errors are no candidates: nothing is printed.
pub(crate) async fn run(words: Vec<String>, screen: &mut Screen) -> Result<(), CliError> {
    let candidates = match wanted(&words) {
        Wanted::These(candidates) => candidates,
        Wanted::OfMesh(what, before) => {
            let entries = entries(&words).await.unwrap_or_default();
            let candidates = what.candidates(&entries, words.last().map_or("", String::as_str));
            candidates
                .into_iter()
                .map(|candidate| candidate.behind(&before))
                .collect()
        }
    };
    let typed = words.last().map_or("", String::as_str);
    for candidate in candidates {
        if candidate.text.starts_with(typed) {
            screen.line(&harmless_line(&candidate))?;
        }
    }
    Ok(())
}

async fn entries(words: &[String]) -> Option<Vec<ServerEntry>> {
    let (_, before) = words.split_last()?;
    let mut config = mesh_config(before.to_vec()).ok()?;
    config.join_timeout = WITHIN;
    Admin::connect(config).await.ok()?.servers().await.ok()
}

/// Something that may be typed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    text: String,
    description: String,
}

impl Candidate {
    fn new(text: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            description: description.into(),
        }
    }

    /// Returns it with the beginning of its word, which stays.
    fn behind(mut self, before: &str) -> Self {
        self.text.insert_str(0, before);
        self
    }
}

fn harmless_line(candidate: &Candidate) -> String {
    let (text, description) = (harmless(&candidate.text), harmless(&candidate.description));
    if description.is_empty() {
        text
    } else {
        format!("{text}\t{description}")
    }
}

/// What can follow.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// One of these.
    These(Vec<Candidate>),
    /// What the mesh has, behind the beginning of the word.
    OfMesh(Names, String),
}

/// Names in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Names of servers.
    Servers,
    /// Uuids.
    Uuids,
    /// Names and uuids.
    Both,
    /// Functions: `server.function`, or `uuid.function`.
    Targets,
}

/// Returns what the last word can be.
fn wanted(words: &[String]) -> Wanted {
    let none = || Wanted::These(Vec::new());
    let Some((typed, before)) = words.split_last() else {
        return none();
    };
    let info = info();
    let mut command: Option<&CommandInfoWithArgs> = None;
    let (mut positionals, mut value_of) = (0, None);
    for word in before {
        if value_of.take().is_some() {
            continue;
        }
        if word == "--" {
            // A payload follows.
            return none();
        }
        if word.starts_with('-') {
            value_of = takes_value(word, command.map_or(&[], |command| command.flags));
        } else if let Some(known) = command {
            positionals += usize::from(known.name != "wait");
        } else if word == "help" {
            return These(commands(&info));
        } else {
            let mut known = info.commands.iter();
            command = known
                .find(|command| command.name == word)
                .map(|command| &command.command);
            if command.is_none() {
                return none();
            }
        }
    }
    if let Some(option) = value_of {
        return These(values(&option, ""));
    }
    if let Some((option, _)) = typed.split_once('=').filter(|_| typed.starts_with("--")) {
        return These(values(option, &format!("{option}=")));
    }
    if typed.starts_with('-') {
        return These(options(command));
    }
    match (command, positionals) {
        (None, _) => These(commands(&info)),
        (Some(command), 0) => first_positional(command.name, typed),
        _ => none(),
    }
}

fn first_positional(command: &str, typed: &str) -> Wanted {
    let of_mesh = |names| Wanted::OfMesh(names, String::new());
    match command {
        "status" | "logs" | "stats" | "metrics" => of_mesh(Names::Both),
        "rm" => of_mesh(Names::Uuids),
        "wait" => of_mesh(Names::Servers),
        "call" => of_mesh(Names::Targets),
        "job" => {
            let before = typed.rfind(',').map_or("", |comma| &typed[..=comma]);
            Wanted::OfMesh(Names::Targets, before.to_owned())
        }
        "completion" => These(
            Shell::ALL
                .iter()
                .map(|(name, _)| Candidate::new(*name, ""))
                .collect(),
        ),
        _ => These(Vec::new()),
    }
}

/// Returns the option whose value follows this word, if one does.
fn takes_value(word: &str, flags: &[FlagInfo]) -> Option<String> {
    let is_setting = mesh_settings().any(|setting| setting.flag() == word);
    let is_option = flags
        .iter()
        .any(|flag| flag.long == word && matches!(flag.kind, FlagInfoKind::Option { .. }));
    (is_setting || is_option).then(|| word.to_owned())
}

/// Returns the values of an option, if they are known.
fn values(option: &str, before: &str) -> Vec<Candidate> {
    let values: &[&str] = match option {
        "--tls" => &["auto", "off", "required"],
        "--level" => &["ERROR", "WARNING", "INFO", "DEBUG"],
        _ => &[],
    };
    let values = values.iter().map(|value| Candidate::new(*value, ""));
    values.map(|value| value.behind(before)).collect()
}

fn commands(info: &CommandInfoWithArgs) -> Vec<Candidate> {
    let commands = info.commands.iter();
    let commands =
        commands.map(|command| Candidate::new(command.name, command.command.description));
    commands
        .chain([Candidate::new(
            "help",
            "shows the commands, or the options of one",
        )])
        .collect()
}

fn options(command: Option<&CommandInfoWithArgs>) -> Vec<Candidate> {
    let own = command.map_or(&[][..], |command| command.flags).iter();
    let own = own
        .filter(|flag| flag.long != "--help" && !flag.hidden)
        .map(|flag| Candidate::new(flag.long, flag.description));
    let settings = mesh_settings().map(|setting| Candidate::new(setting.flag(), setting.help));
    let others = [
        Candidate::new("--help", "show the help"),
        Candidate::new("--version", "print the version"),
    ];
    own.chain(settings).chain(others).collect()
}

impl Names {
    /// Returns the names that these entries have.
    fn candidates(self, entries: &[ServerEntry], typed: &str) -> Vec<Candidate> {
        match self {
            Self::Servers => servers(entries),
            Self::Uuids => uuids(entries),
            Self::Both => {
                let mut both = servers(entries);
                // Names are shorter; uuids come once one is begun, or when there is nothing else.
                if !typed.is_empty() || both.is_empty() {
                    both.extend(uuids(entries));
                }
                both
            }
            Self::Targets => targets(entries, typed),
        }
    }
}

fn servers(entries: &[ServerEntry]) -> Vec<Candidate> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for record in entries
        .iter()
        .filter_map(|entry| entry.record.as_ref().ok())
    {
        *counts.entry(&record.server).or_default() += 1;
    }
    counts
        .into_iter()
        .map(|(server, count)| Candidate::new(server, counted(count, "instance")))
        .collect()
}

fn uuids(entries: &[ServerEntry]) -> Vec<Candidate> {
    let uuid = |entry: &ServerEntry| match &entry.record {
        Ok(record) => {
            let what = format!("{} at {}", record.server, record.endpoint());
            Candidate::new(&entry.name, what)
        }
        Err(_) => Candidate::new(&entry.name, "broken"),
    };
    entries.iter().map(uuid).collect()
}

/// Returns the targets that the last part of `typed` may become.
fn targets(entries: &[ServerEntry], typed: &str) -> Vec<Candidate> {
    let typed = typed.rsplit(',').next().unwrap_or_default();
    let with_built_in = typed.contains('.');
    let mut targets = BTreeMap::new();
    for entry in entries {
        let Ok(record) = &entry.record else { continue };
        let of_one = !typed.is_empty()
            && entry
                .name
                .starts_with(typed.split('.').next().unwrap_or_default());
        for function in &record.functions {
            if BUILT_IN.contains(&function.as_str()) && !with_built_in {
                continue;
            }
            targets.insert(format!("{}.{function}", record.server), String::new());
            if of_one {
                targets.insert(format!("{}.{function}", entry.name), record.server.clone());
            }
        }
    }
    targets
        .into_iter()
        .map(|(target, description)| Candidate::new(target, description))
        .collect()
}

#[cfg(test)]
mod tests;
