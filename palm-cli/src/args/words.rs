//! The words of the command line, before argh reads them.

use super::{Flags, info, mesh_settings};
use crate::suggest::did_you_mean;
use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind};

/// The words of a command line.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// The options that set up the mesh, which may stand anywhere.
    pub flags: Flags,
    /// The other words as argh needs them: `--name=value` split in two, and the payload `-`, which
    /// it would take for an option, after `--`.
    pub rest: Vec<String>,
    /// Whether the version is asked for.
    pub version: bool,
}

/// Splits the words of a command line.
pub(super) fn split(args: Vec<String>) -> Result<Words, String> {
    let (mut words, mut last) = (Words::default(), Vec::new());
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            last.extend(args.by_ref());
            break;
        }
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) if name.starts_with("--") => {
                (name.to_owned(), Some(value.to_owned()))
            }
            _ => (arg.clone(), None),
        };
        if let Some(setting) = mesh_settings().find(|setting| setting.flag() == name) {
            let value = value
                .or_else(|| args.next())
                .ok_or_else(|| format!("the option {name} needs a value"))?;
            if words.flags.iter().any(|(other, _)| *other == setting) {
                return Err(format!("the option {name} is given twice"));
            }
            words.flags.push((setting, value));
            continue;
        }
        match name.as_str() {
            "-V" | "--version" => words.version = true,
            "-h" => words.rest.push("--help".to_owned()),
            "-" => last.push(arg),
            _ => {
                words.rest.push(name);
                words.rest.extend(value);
            }
        }
    }
    if !last.is_empty() {
        words.rest.push("--".to_owned());
        words.rest.append(&mut last);
    }
    Ok(words)
}

/// Refuses a command or an option that does not exist, with the one that was probably meant: argh's
/// own errors call everything an argument.
pub(super) fn check(words: &[String]) -> Result<(), String> {
    let info = info();
    let commands: Vec<_> = info.commands.iter().map(|command| command.name).collect();
    let all = || commands.join(", ");
    let mut words = words.iter().map(String::as_str);
    let first = words
        .next()
        .ok_or_else(|| format!("no command is given; there are {}", all()))?;
    let name = match first {
        "--help" => return Ok(()),
        "help" => match words.next() {
            Some(name) => name,
            None => return Ok(()),
        },
        name => name,
    };
    let unknown = |similar: String| format!("unknown command {name}{similar}; there are {}", all());
    match info.commands.iter().find(|command| command.name == name) {
        Some(command) => check_options(&command.command, words),
        None if name == "version" => Err(unknown(" (did you mean --version?)".to_owned())),
        None if name.starts_with('-') => Err(unknown_option(name, "", &[])),
        None => Err(unknown(did_you_mean(name, commands.iter().copied()))),
    }
}

fn check_options<'a>(
    command: &CommandInfoWithArgs,
    mut words: impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    while let Some(word) = words.next() {
        if word == "--" {
            break;
        }
        if !word.starts_with('-') {
            continue;
        }
        let is_it = |flag: &&FlagInfo| {
            flag.long == word || flag.short.is_some_and(|short| word == format!("-{short}"))
        };
        match command.flags.iter().find(is_it) {
            Some(flag) if matches!(flag.kind, FlagInfoKind::Option { .. }) => {
                words.next();
            }
            Some(_) => {}
            None => {
                let mut positionals = command.positionals.iter();
                let has_payload = positionals.any(|positional| positional.name == "payload");
                if has_payload && !word.starts_with("--") {
                    return Err(format!(
                        "unknown option {word}; a payload that begins with a dash goes after --, as in: \
                         palm-cli {} TARGET -- {word}",
                        command.name
                    ));
                }
                return Err(unknown_option(word, command.name, command.flags));
            }
        }
    }
    Ok(())
}

fn unknown_option(word: &str, command: &str, flags: &[FlagInfo]) -> String {
    let settings: Vec<_> = mesh_settings().map(palm_peer::Setting::flag).collect();
    let known = flags
        .iter()
        .map(|flag| flag.long)
        .chain(settings.iter().map(String::as_str))
        .chain(["--help", "--version"]);
    let similar = did_you_mean(word, known);
    if command.is_empty() {
        format!("unknown option {word}{similar}")
    } else {
        format!("unknown option {word} of {command}{similar}")
    }
}
