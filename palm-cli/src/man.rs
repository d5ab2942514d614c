//! The man pages, from the same descriptions as the help: `palm-cli __man FOLDER` writes them.

use crate::{
    args::{info, mesh_settings},
    error::CliError,
};
use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality, PositionalInfo};
use roff::{Inline, Roff, bold, italic, roman};
use std::{fs, io, path::Path};

/// Writes one page for palm-cli, and one for each command.
pub(crate) fn write(folder: &Path) -> Result<(), CliError> {
    let info = info();
    let mut pages = vec![("palm-cli".to_owned(), overview(&info))];
    for command in &info.commands {
        let page = page_of(&command.command, &info);
        pages.push((format!("palm-cli-{}", command.name), page));
    }
    let write = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        for (name, page) in pages {
            fs::write(folder.join(format!("{name}.1")), page.render())?;
        }
        Ok(())
    };
    write().map_err(|error| {
        CliError::CouldNot(format!("cannot write to {}: {error}", folder.display()))
    })
}

fn overview(info: &CommandInfoWithArgs) -> Roff {
    let mut page = head("palm-cli", info.description);
    page.control("SH", ["SYNOPSIS"]);
    page.text([
        bold("palm-cli"),
        roman(" [options] "),
        italic("command"),
        roman(" [arguments]"),
    ]);
    description(&mut page, info.description);
    page.control("SH", ["COMMANDS"]);
    for command in &info.commands {
        let name = format!("palm-cli-{}(1)", command.name);
        item(&mut page, [bold(name)], command.command.description);
    }
    common_parts(&mut page, info);
    page
}

fn page_of(command: &CommandInfoWithArgs, info: &CommandInfoWithArgs) -> Roff {
    let mut page = head(&format!("palm-cli-{}", command.name), command.description);
    page.control("SH", ["SYNOPSIS"]);
    page.text(synopsis(command));
    description(&mut page, command.description);
    if !command.positionals.is_empty() {
        page.control("SH", ["ARGUMENTS"]);
        for positional in command.positionals {
            item(&mut page, [italic(positional.name)], positional.description);
        }
    }
    page.control("SH", ["OPTIONS"]);
    for flag in command.flags {
        item(&mut page, flag_names(flag), flag.description);
    }
    common_parts(&mut page, info);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("palm-cli"), roman("(1)")]);
    page
}

fn head(name: &str, summary: &str) -> Roff {
    let mut page = Roff::new();
    let version = concat!("palm-cli ", env!("CARGO_PKG_VERSION"));
    page.control("TH", [&*name.to_uppercase(), "1", "", version, ""]);
    page.control("SH", ["NAME"]);
    // What whatis(1) shows is one phrase.
    let summary = summary.split(';').next().unwrap_or_default();
    page.text([roman(format!("{name} - {summary}"))]);
    page
}

fn description(page: &mut Roff, text: &str) {
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(sentence(text))]);
}

/// The parts that all pages have.
fn common_parts(page: &mut Roff, info: &CommandInfoWithArgs) {
    page.control("SH", ["COMMON OPTIONS"]);
    page.text([roman("They may stand before or after the command.")]);
    for setting in mesh_settings() {
        let names = [bold(setting.flag()), roman(" "), italic(setting.value)];
        let text = format!(
            "{} (variable {}, default {})",
            setting.help,
            setting.variable(),
            setting.default
        );
        item(page, names, &text);
    }
    item(page, [bold("-V, --version")], "print the version");
    page.control("SH", ["ENVIRONMENT"]);
    page.text([roman(
        "Each common option overrides its PALM_* variable. ETCDCTL_ENDPOINTS, ETCDCTL_USER, ETCDCTL_CACERT, \
         ETCDCTL_CERT and ETCDCTL_KEY apply to what neither sets. NO_COLOR turns colours off.",
    )]);
    page.control("SH", ["EXIT STATUS"]);
    for code in info.error_codes {
        item(page, [bold(code.code.to_string())], code.description);
    }
}

fn item(page: &mut Roff, names: impl Into<Vec<Inline>>, text: &str) {
    page.control("TP", []);
    page.text(names);
    page.text([roman(sentence(text))]);
}

fn synopsis(command: &CommandInfoWithArgs) -> Vec<Inline> {
    let mut line = vec![
        bold(format!("palm-cli {}", command.name)),
        roman(" [options]"),
    ];
    for positional in command.positionals {
        let (before, after) = brackets(positional);
        line.extend([
            roman(format!(" {before}")),
            italic(positional.name),
            roman(after),
        ]);
    }
    line
}

fn brackets(positional: &PositionalInfo) -> (&'static str, &'static str) {
    match positional.optionality {
        Optionality::Required => ("", ""),
        Optionality::Optional => ("[", "]"),
        Optionality::Repeating | Optionality::Greedy => ("[", "]..."),
    }
}

fn flag_names(flag: &FlagInfo) -> Vec<Inline> {
    let short = flag.short.map(|short| format!("-{short}, "));
    let mut names = vec![bold(format!("{}{}", short.unwrap_or_default(), flag.long))];
    if let FlagInfoKind::Option { arg_name } = &flag.kind {
        names.extend([roman(" "), italic(*arg_name)]);
    }
    names
}

/// Returns the text with a capital at its beginning and a full stop.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    let text: String = first.into_iter().chain(chars).collect();
    if text.ends_with('.') {
        text
    } else {
        format!("{text}.")
    }
}
