//! The command line.

// The comments of the fields are the help text, which has no mark-up.
#![allow(rustdoc::bare_urls, clippy::doc_markdown)]

use crate::error::CliError;
use argh::FromArgs;
use palm_peer::{Config, InvalidSetting, Setting, SettingScope};
use std::{
    ffi::OsString,
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

/// How long etcd may take to answer, so that palm-cli reports an outage within 5 s,
/// including its start.
const ETCD_WITHIN: Duration = Duration::from_secs(4);

/// shows and clears what a PALM mesh stores in etcd, and calls its functions; each option overrides
/// its PALM_* environment variable
#[derive(FromArgs, Debug)]
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
#[derive(FromArgs, Debug)]
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
}

/// shows the servers of the mesh, those of one name, or the record of one as it is stored
#[derive(FromArgs, Debug)]
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
    /// show everything, even if lines wrap: whole uuids, kinds, process ids, built-in functions
    #[argh(switch)]
    pub wide: bool,
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
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "rm")]
pub(crate) struct Rm {
    /// uuid of the server, or its first 4 characters or more
    #[argh(positional)]
    pub server: String,
}

/// clears all keys of the mesh in etcd; running servers re-register by themselves
#[derive(FromArgs, Debug)]
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
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "call")]
pub(crate) struct Call {
    /// server.function, or uuid.function for one instance
    #[argh(positional)]
    pub target: String,
    /// the payload (default empty); - reads it from standard input
    #[argh(positional)]
    pub payload: Option<String>,
    /// seconds that the call may take (default PALM_TIMEOUT, or 30)
    #[argh(option, arg_name = "seconds")]
    pub timeout: Option<String>,
    /// key in the server's store, for get, set, append and delete
    #[argh(option, arg_name = "key")]
    pub cache: Option<String>,
}

/// streams the lines of standard input through functions, and prints the results as lines
#[derive(FromArgs, Debug)]
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
    /// seconds that each message may take in total (default PALM_TIMEOUT, or 30)
    #[argh(option, arg_name = "seconds")]
    pub timeout: Option<String>,
    /// how many times each message is tried at most (default 3)
    #[argh(
        option,
        arg_name = "times",
        default = "NonZeroU32::MIN.saturating_add(2)"
    )]
    pub attempts: NonZeroU32,
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
        let mut config = Config::from_env()?.without_server_settings();
        config.max_queued_bytes = config.max_queued_bytes.max(config.max_payload);
        config.max_unread = config.max_unread.max(config.max_payload);
        config.max_held = config.max_held.max(config.max_payload);
        config.join_timeout = config.join_timeout.min(ETCD_WITHIN);
        for (setting, value) in &self.flags {
            config
                .set(setting.name, value)
                .map_err(|error| error.named(setting.flag()))?;
        }
        let timeout = match &self.command {
            Command::Call(call) => call.timeout.as_ref(),
            Command::Job(job) => job.timeout.as_ref(),
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

/// The parsed command line.
#[derive(Debug)]
// There is only one value of this type.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Parsed {
    /// A command.
    Line(CommandLine),
    /// The help text.
    Help(String),
}

/// Parses the command line, without the program's name.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, CliError> {
    let text = |arg: OsString| {
        arg.into_string()
            .map_err(|arg| CliError::Usage(format!("{} is not valid UTF-8", arg.to_string_lossy())))
    };
    let usage = |words: &str| {
        CliError::Usage(format!(
            "{}\nRun palm-cli --help for more.",
            words.trim_end()
        ))
    };
    let (flags, args) = split(args.into_iter().map(text).collect::<Result<_, _>>()?)
        .map_err(|words| usage(&words))?;
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match Args::from_args(&["palm-cli"], &args) {
        Ok(Args { command }) => Ok(Parsed::Line(CommandLine { flags, command })),
        Err(exit) if exit.status.is_ok() => Ok(Parsed::Help(format!(
            "{}\n{}",
            exit.output.trim_end(),
            options_help()
        ))),
        Err(exit) => Err(usage(&exit.output)),
    }
}

/// Returns the options that set up the mesh, which may stand anywhere, and the other arguments as
/// argh needs them: `--name=value` split in two, and the payload `-`, which it would take for an
/// option, after `--`.
fn split(args: Vec<String>) -> Result<(Flags, Vec<String>), String> {
    let (mut flags, mut rest, mut last) = (Flags::new(), Vec::new(), Vec::new());
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
                .ok_or_else(|| format!("No value provided for option '{name}'."))?;
            if flags.iter().any(|(other, _)| *other == setting) {
                return Err(format!("The option '{name}' is given twice."));
            }
            flags.push((setting, value));
        } else if arg == "-" {
            last.push(arg);
        } else {
            rest.push(name);
            rest.extend(value);
        }
    }
    if !last.is_empty() {
        rest.push("--".to_owned());
        rest.append(&mut last);
    }
    Ok((flags, rest))
}

fn mesh_settings() -> impl Iterator<Item = &'static Setting> {
    Config::SETTINGS
        .iter()
        .filter(|setting| setting.scope == SettingScope::Mesh)
}

/// The part of the help that is the same for all commands, in argh's layout.
fn options_help() -> String {
    const INDENT: usize = 20;
    const WIDTH: usize = 80;
    let mut help = "\nOptions, before or after the command:\n".to_owned();
    for setting in mesh_settings() {
        let mut line = format!("  {:<width$}", setting.flag(), width = INDENT - 2);
        let text = format!("{} (default {})", setting.help, setting.default);
        for word in text.split(' ') {
            if line.len() + word.len() >= WIDTH {
                help.push_str(line.trim_end());
                help.push('\n');
                line = " ".repeat(INDENT);
            }
            line.push_str(word);
            line.push(' ');
        }
        help.push_str(line.trim_end());
        help.push('\n');
    }
    help
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Parsed, CliError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn args(line: &str) -> CommandLine {
        match parsed(line) {
            Ok(Parsed::Line(line)) => line,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn options_may_stand_on_either_side_of_the_command() {
        for line in [
            "--etcd http://a:1 --prefix /x status",
            "status --etcd http://a:1 --prefix=/x",
        ] {
            let given: Vec<_> = args(line)
                .flags
                .into_iter()
                .map(|(setting, value)| (setting.name, value))
                .collect();
            assert_eq!(
                given,
                [
                    ("etcd", "http://a:1".to_owned()),
                    ("prefix", "/x".to_owned())
                ],
                "{line}"
            );
        }
    }

    #[test]
    fn a_payload_may_look_like_an_option() {
        for (line, payload, timeout) in [
            ("call a.b", None, None),
            ("call a.b x=y", Some("x=y"), None),
            ("call a.b -", Some("-"), None),
            ("call a.b - --timeout 3", Some("-"), Some("3")),
            ("call --timeout=3 a.b -- --etcd", Some("--etcd"), Some("3")),
        ] {
            let Command::Call(call) = args(line).command else {
                panic!("{line}")
            };
            assert_eq!(
                (call.payload.as_deref(), call.timeout.as_deref()),
                (payload, timeout),
                "{line}"
            );
        }
    }

    #[test]
    fn job_limits_default_to_the_librarys() {
        for (line, window, attempts) in [
            ("job a.b", 1024, 3),
            ("job a.b,c.d --window=1 --attempts 1", 1, 1),
        ] {
            let Command::Job(job) = args(line).command else {
                panic!("{line}")
            };
            assert_eq!(
                (job.window.get(), job.attempts.get()),
                (window, attempts),
                "{line}"
            );
        }
        for line in [
            "job a.b --window 0",
            "job a.b --window many",
            "job a.b --attempts 0",
            "job a.b --attempts -1",
        ] {
            assert!(matches!(parsed(line), Err(CliError::Usage(_))), "{line}");
        }
    }

    #[test]
    fn nonsense_on_the_command_line_is_a_usage_error() {
        for line in [
            "",
            "stat",
            "status --wacht",
            "rm",
            "rm a b",
            "reset --yes=1",
            "call",
            "call a.b c d",
            "job",
            "job a.b c",
        ] {
            assert!(matches!(parsed(line), Err(CliError::Usage(_))), "{line}");
        }
        for line in ["status --wide --json", "status a --json --watch"] {
            let Command::Status(status) = args(line).command else {
                panic!("{line}")
            };
            assert!(matches!(status.check(), Err(CliError::Usage(_))), "{line}");
        }
    }

    #[test]
    fn help_has_every_setting_of_the_mesh() {
        for line in ["--help", "status --help"] {
            let Ok(Parsed::Help(help)) = parsed(line) else {
                panic!("{line}")
            };
            let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
            for setting in mesh_settings() {
                assert!(
                    help.contains(&format!(
                        "{} {} (default {})",
                        setting.flag(),
                        setting.help,
                        setting.default
                    )),
                    "{line}: {}: {help}",
                    setting.name
                );
            }
        }
        let timeout = Config::SETTINGS
            .iter()
            .find(|setting| setting.name == "timeout")
            .expect("a setting");
        for line in ["call --help", "job --help"] {
            let Ok(Parsed::Help(help)) = parsed(line) else {
                panic!("{line}")
            };
            let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(
                help.contains(&format!("PALM_TIMEOUT, or {})", timeout.default)),
                "{line}: {help}"
            );
        }
        assert!(
            matches!(parsed("status --etcd"), Err(CliError::Usage(_))),
            "a flag needs its value"
        );
        assert!(
            matches!(
                parsed("status --prefix /a --prefix /b"),
                Err(CliError::Usage(_))
            ),
            "a flag is given once"
        );
    }

    #[test]
    fn help_is_not_an_error() {
        for line in ["--help", "help", "status --help"] {
            assert!(matches!(parsed(line), Ok(Parsed::Help(_))), "{line}");
        }
    }
}
