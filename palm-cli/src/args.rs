//! The command line.

// The comments of the fields are the help text, which has no mark-up.
#![allow(rustdoc::bare_urls, clippy::doc_markdown)]

mod etcdctl;
mod help;
mod words;

use crate::{
    error::{CliError, warn},
    meta::Entry,
};
use argh::{ArgsInfo, CommandInfoWithArgs, FromArgs};
use palm_peer::{Config, InvalidSetting, Setting, SettingScope};
use std::{
    env,
    ffi::OsString,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

/// How long etcd may take to answer, so that palm-cli reports an outage within 5 s,
/// including its start.
const ETCD_WITHIN: Duration = Duration::from_secs(4);

/// shows and clears what a PALM mesh stores in etcd, and calls its functions; each option overrides
/// its PALM_* environment variable
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    error_code(0, "done"),
    error_code(1, "the command failed; standard error has the reason"),
    error_code(2, "the command line or a setting is wrong"),
    error_code(3, "etcd cannot be reached")
)]
struct Args {
    /// what to do
    #[argh(subcommand)]
    command: Command,
}

/// What to do.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub(crate) enum Command {
    /// Show the servers.
    Status(Status),
    /// Remove a server.
    Rm(Rm),
    /// Clear all keys.
    Reset(Reset),
    /// Call a function.
    Call(Call),
    /// Send a stream of messages through functions.
    Job(Job),
    /// Wait for servers.
    Wait(Wait),
    /// Show how servers are doing.
    Stats(Stats),
    /// Print log lines.
    Logs(Logs),
    /// Print metrics.
    Metrics(Metrics),
    /// Print a completion script.
    Completion(Completion),
}

/// shows the servers of the mesh, those of one name, or the record of one as it is stored
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "status")]
pub(crate) struct Status {
    /// a server's name: show only its instances; or a uuid, or its first 4 characters or more:
    /// print this record
    #[argh(positional)]
    pub server: Option<String>,
    /// print the records as one JSON array
    #[argh(switch)]
    pub json: bool,
    /// keep running, and show every change
    #[argh(switch, short = 'w')]
    pub watch: bool,
    /// show everything, even if lines wrap: whole uuids, kinds, tags, process ids, built-in functions
    #[argh(switch)]
    pub wide: bool,
    /// only servers in this zone
    #[argh(option, arg_name = "zone")]
    pub zone: Option<String>,
    /// only servers with this tag
    #[argh(option, arg_name = "tag")]
    pub tag: Option<String>,
}

impl Status {
    /// Refuses contradictory options.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        let asked = [
            (self.json, "--json"),
            (self.watch, "--watch"),
            (self.wide && self.json, "--wide"),
        ];
        let asked: Vec<_> = asked
            .into_iter()
            .filter_map(|(is_asked, name)| is_asked.then_some(name))
            .collect();
        if asked.len() > 1 {
            return Err(CliError::Usage(format!(
                "{} cannot be combined",
                asked.join(" and ")
            )));
        }
        Ok(())
    }
}

/// removes a server from the mesh permanently: its process ends, and clients no longer find it
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "rm")]
pub(crate) struct Rm {
    /// uuid of the server, or its first 4 characters or more
    #[argh(positional)]
    pub server: String,
}

/// clears all keys of the mesh in etcd; running servers re-register by themselves
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "reset")]
pub(crate) struct Reset {
    /// do not ask for confirmation
    #[argh(switch)]
    pub yes: bool,
    /// do not wait for the servers to re-register
    #[argh(switch)]
    pub no_wait: bool,
}

/// calls a function and prints its answer, byte for byte
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "call")]
pub(crate) struct Call {
    /// server.function, or uuid.function for one instance
    #[argh(positional)]
    pub target: String,
    /// the payload (default empty); - reads it from standard input
    #[argh(positional)]
    pub payload: Option<String>,
    /// how long the call may take, such as 2s or 500ms (default PALM_TIMEOUT, or 30)
    #[argh(option, arg_name = "time")]
    pub timeout: Option<String>,
    /// key in the server's store, for get, set, append and delete
    #[argh(option, arg_name = "key")]
    pub cache: Option<String>,
    /// metadata that travels with the call, such as user=ada; may be repeated
    #[argh(option, short = 'H', arg_name = "name=value")]
    pub meta: Vec<Entry>,
    /// print the metadata of the answer to stderr, as name=value lines
    #[argh(switch)]
    pub show_meta: bool,
    /// call every instance, and print a line for each: the uuid, a tab, and the answer
    #[argh(switch)]
    pub all: bool,
}

/// streams the lines of standard input through functions, and prints the results as lines
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "job")]
pub(crate) struct Job {
    /// the functions, separated by commas: server.function, or uuid.function for one instance
    #[argh(positional)]
    pub pipeline: String,
    /// how many messages may be in flight (default 1024)
    #[argh(
        option,
        arg_name = "messages",
        default = "NonZeroUsize::MIN.saturating_add(1023)"
    )]
    pub window: NonZeroUsize,
    /// print results as they complete, instead of in the order of the messages
    #[argh(switch)]
    pub unordered: bool,
    /// messages and results end with NUL, not with a line feed
    #[argh(switch)]
    pub null: bool,
    /// metadata that travels with each message, such as user=ada; may be repeated
    #[argh(option, short = 'H', arg_name = "name=value")]
    pub meta: Vec<Entry>,
    /// how long each message may take in total, such as 2s or 1m (default PALM_TIMEOUT, or 30)
    #[argh(option, arg_name = "time")]
    pub timeout: Option<String>,
    /// how many times each message is tried at most (default 3)
    #[argh(
        option,
        arg_name = "times",
        default = "NonZeroU32::MIN.saturating_add(2)"
    )]
    pub attempts: NonZeroU32,
}

/// waits until servers can be called
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "wait")]
pub(crate) struct Wait {
    /// a server, with the number of its instances if it is not 1: text=2
    #[argh(positional, arg_name = "server[=instances]")]
    pub servers: Vec<String>,
    /// how long to wait, such as 30s or 2m (default PALM_TIMEOUT, or 30)
    #[argh(option, arg_name = "time")]
    pub timeout: Option<String>,
}

impl Wait {
    /// Refuses to wait for nothing.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        if self.servers.is_empty() {
            return Err(CliError::Usage(
                "no server is given: palm-cli wait text=2".to_owned(),
            ));
        }
        Ok(())
    }
}

/// shows how servers are doing: requests and errors per second, durations, what runs and waits
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "stats")]
pub(crate) struct Stats {
    /// a server's name, or the first 4 characters or more of a uuid (default: all servers)
    #[argh(positional)]
    pub server: Option<String>,
    /// keep running, and show the figures of each second
    #[argh(switch, short = 'w')]
    pub watch: bool,
    /// print what the servers tell about themselves as one JSON array
    #[argh(switch)]
    pub json: bool,
}

impl Stats {
    /// Refuses contradictory options.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        if self.json && self.watch {
            return Err(CliError::Usage(
                "--json and --watch cannot be combined".to_owned(),
            ));
        }
        Ok(())
    }
}

/// prints the latest log lines of servers, or what the leader logs, whichever server leads
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "logs")]
pub(crate) struct Logs {
    /// registry or pipeliner: what the leader logs; or a server's name, or the first 4 characters
    /// or more of a uuid (default: all servers)
    #[argh(positional)]
    pub of: Option<String>,
    /// keep running, and print new lines
    #[argh(switch, short = 'f')]
    pub follow: bool,
    /// how many of the lines so far are printed at most (default: all that are kept)
    #[argh(option, short = 'n', arg_name = "count")]
    pub lines: Option<usize>,
}

/// prints the metrics of all servers as OpenMetrics text, for Prometheus
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "metrics")]
pub(crate) struct Metrics {
    /// a server's name, or the first 4 characters or more of a uuid (default: all servers)
    #[argh(positional)]
    pub server: Option<String>,
}

/// prints the completion script of a shell
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "completion")]
pub(crate) struct Completion {
    /// bash, zsh or fish
    #[argh(positional)]
    pub shell: Shell,
}

/// A shell that has completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

impl Shell {
    /// All shells, with their names.
    pub(crate) const ALL: [(&'static str, Self); 3] = [
        ("bash", Self::Bash),
        ("zsh", Self::Zsh),
        ("fish", Self::Fish),
    ];
}

impl FromStr for Shell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        found
            .map(|(_, shell)| shell)
            .ok_or_else(|| "there are scripts for bash, zsh and fish".to_owned())
    }
}

/// The flags of settings that were given, each with its value.
type Flags = Vec<(&'static Setting, String)>;

/// A command line that was read.
#[derive(Debug)]
pub(crate) struct CommandLine {
    flags: Flags,
    pub command: Command,
}

impl CommandLine {
    /// Returns the configuration from the environment, overridden by the options.
    pub(crate) fn config(&self) -> Result<Config, InvalidSetting> {
        let mut config = config_of(&self.flags)?;
        let timeout = match &self.command {
            Command::Call(call) => call.timeout.as_ref(),
            Command::Job(job) => job.timeout.as_ref(),
            Command::Wait(wait) => wait.timeout.as_ref(),
            _ => None,
        };
        if let Some(timeout) = timeout {
            config
                .set("timeout", timeout)
                .map_err(|error| error.named("--timeout"))?;
        }
        config.validate()?;
        Ok(config)
    }
}

/// Returns the configuration from the environment, overridden by these flags.
fn config_of(flags: &Flags) -> Result<Config, InvalidSetting> {
    let mut config = Config::from_env()?.without_server_settings();
    config.max_queued_bytes = config.max_queued_bytes.max(config.max_payload);
    config.max_unread = config.max_unread.max(config.max_payload);
    config.max_held = config.max_held.max(config.max_payload);
    config.join_timeout = config.join_timeout.min(ETCD_WITHIN);
    let is_set = |name: &str| {
        let variable = Config::SETTINGS.iter().find(|setting| setting.name == name);
        let variable = variable.and_then(|setting| env::var_os(setting.variable()));
        variable.is_some_and(|value| !value.is_empty())
            || flags.iter().any(|(setting, _)| setting.name == name)
    };
    let lookup = |name: &str| env::var(name).ok();
    if let Some(warning) = etcdctl::apply(&mut config, is_set, lookup)? {
        warn(&warning);
    }
    for (setting, value) in flags {
        config
            .set(setting.name, value)
            .map_err(|error| error.named(setting.flag()))?;
    }
    Ok(config)
}

/// Returns the configuration for a command line that is not finished.
pub(crate) fn mesh_config(words: Vec<String>) -> Result<Config, CliError> {
    let words = words::split(words).map_err(CliError::Usage)?;
    Ok(config_of(&words.flags)?)
}

/// Returns the description of the commands and their options.
pub(crate) fn info() -> CommandInfoWithArgs {
    Args::get_args_info()
}

/// The parsed command line.
#[derive(Debug)]
// There is only one value of this type.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Parsed {
    /// A command.
    Line(CommandLine),
    /// The help or the version, to be printed.
    Text(String),
    /// A shell wants to know what the last of these words can be.
    Complete(Vec<String>),
    /// The man pages are to be written to this folder.
    Man(PathBuf),
}

/// Parses the command line, without the program's name.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, CliError> {
    let text = |arg: OsString| {
        arg.into_string()
            .map_err(|arg| CliError::Usage(format!("{} is not valid UTF-8", arg.to_string_lossy())))
    };
    let args: Vec<_> = args.into_iter().map(text).collect::<Result<_, _>>()?;
    match args.split_first() {
        Some((first, words)) if first == "__complete" => {
            return Ok(Parsed::Complete(words.to_vec()));
        }
        Some((first, [folder])) if first == "__man" => return Ok(Parsed::Man(folder.into())),
        _ => {}
    }
    let words = words::split(args).map_err(|message| usage(&message, None))?;
    if words.version {
        return Ok(Parsed::Text(format!(
            "palm-cli {}",
            env!("CARGO_PKG_VERSION")
        )));
    }
    let command = words.rest.first().map(String::as_str);
    words::check(&words.rest).map_err(|message| usage(&message, command))?;
    let args: Vec<_> = words.rest.iter().map(String::as_str).collect();
    match Args::from_args(&["palm-cli"], &args) {
        Ok(Args { command }) => Ok(Parsed::Line(CommandLine {
            flags: words.flags,
            command,
        })),
        Err(exit) if exit.status.is_ok() => Ok(Parsed::Text(format!(
            "{}\n{}",
            exit.output.trim_end(),
            help::options()
        ))),
        Err(exit) => Err(usage(&exit.output, command)),
    }
}

/// Returns the error of a wrong command line, with where to find more.
fn usage(message: &str, command: Option<&str>) -> CliError {
    let commands = info().commands;
    let command = command.filter(|name| commands.iter().any(|command| command.name == *name));
    let command = command.map_or_else(String::new, |name| format!("{name} "));
    CliError::Usage(format!(
        "{}\nRun palm-cli {command}--help for more.",
        message.trim_end()
    ))
}

/// Returns the settings that every command has.
pub(crate) fn mesh_settings() -> impl Iterator<Item = &'static Setting> {
    Config::SETTINGS
        .iter()
        .filter(|setting| setting.scope == SettingScope::Mesh)
}

#[cfg(test)]
mod tests;
