//! The command line.

// The comments of the fields are the help text, which has no mark-up.
#![allow(rustdoc::bare_urls, clippy::doc_markdown)]

use crate::error::CliError;
use argh::FromArgs;
use palm_peer::{Config, InvalidSetting};
use std::{
    ffi::OsString,
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

/// How long etcd may take to answer, so that palm-cli reports an outage within 5 s, including its start.
const ETCD_WITHIN: Duration = Duration::from_secs(4);

/// shows and clears what a PALM mesh stores in etcd, and calls its functions
///
/// Options may stand before or after the command; each overrides its PALM_* environment variable.
#[derive(FromArgs, Debug)]
#[argh(
    error_code(0, "done"),
    error_code(1, "could not be done; standard error says why"),
    error_code(2, "the command line or a setting is wrong"),
    error_code(3, "etcd cannot be reached")
)]
pub(crate) struct Args {
    /// etcd's URLs, separated by commas (default http://127.0.0.1:2379)
    #[argh(option, arg_name = "urls")]
    etcd: Option<String>,
    /// key prefix of the mesh in etcd, such as /staging (default none)
    #[argh(option)]
    prefix: Option<String>,
    /// user for etcd, as name:password; better in the environment, as PALM_USER
    #[argh(option)]
    user: Option<String>,
    /// PEM file of the authority that signed the certificates of etcd and of the mesh
    #[argh(option, arg_name = "file")]
    cacert: Option<String>,
    /// PEM file of the certificate to present to etcd and servers
    #[argh(option, arg_name = "file")]
    cert: Option<String>,
    /// PEM file of that certificate's key
    #[argh(option, arg_name = "file")]
    key: Option<String>,
    /// TLS with servers: auto (when --cacert, --cert and --key are set; the default), off, or required (also with etcd)
    #[argh(option, arg_name = "when")]
    tls: Option<String>,
    /// what to do
    #[argh(subcommand)]
    pub command: Command,
}

/// The options that may also stand after the command.
const EVERYWHERE: [&str; 7] = [
    "--etcd", "--prefix", "--user", "--cacert", "--cert", "--key", "--tls",
];

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

/// shows the servers of the mesh, or the record of one as it is stored
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "status")]
pub(crate) struct Status {
    /// uuid of a server, or its first 4 characters or more: print this record
    #[argh(positional)]
    pub server: Option<String>,
    /// print all records as one JSON array
    #[argh(switch)]
    pub json: bool,
    /// keep running, and print again at every change
    #[argh(switch)]
    pub watch: bool,
}

impl Status {
    /// Refuses contradictory options.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        let asked = [
            (self.server.is_some(), "a server"),
            (self.json, "--json"),
            (self.watch, "--watch"),
        ];
        let asked: Vec<_> = asked
            .into_iter()
            .filter_map(|(is_asked, name)| is_asked.then_some(name))
            .collect();
        if asked.len() > 1 {
            return Err(CliError::Usage(format!(
                "{} do not go together",
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
    /// seconds that the call may take (default 30, or PALM_TIMEOUT)
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
    /// seconds that each message may take in total (default 30, or PALM_TIMEOUT)
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

impl Args {
    /// Returns the configuration from the environment, overridden by the options.
    pub(crate) fn config(&self) -> Result<Config, InvalidSetting> {
        let set = Config::from_env()?;
        // Settings of servers only, such as the address to listen on, are ignored.
        let mut settings = Config::default()
            .etcd(set.etcd)
            .prefix(set.prefix)
            .user(set.user)
            .cacert(set.cacert)
            .cert(set.cert)
            .key(set.key)
            .tls(set.tls)
            .timeout(set.timeout)
            .max_payload(set.max_payload)
            .max_queued_bytes(set.max_queued_bytes.max(set.max_payload))
            .max_unread(set.max_unread.max(set.max_payload))
            .max_held(set.max_held.max(set.max_payload))
            .join_timeout(set.join_timeout.min(ETCD_WITHIN));
        let timeout = match &self.command {
            Command::Call(call) => call.timeout.as_ref(),
            Command::Job(job) => job.timeout.as_ref(),
            _ => None,
        };
        for (name, value) in [
            ("etcd", self.etcd.as_ref()),
            ("prefix", self.prefix.as_ref()),
            ("user", self.user.as_ref()),
            ("cacert", self.cacert.as_ref()),
            ("cert", self.cert.as_ref()),
            ("key", self.key.as_ref()),
            ("tls", self.tls.as_ref()),
            ("timeout", timeout),
        ] {
            if let Some(value) = value {
                settings
                    .set(name, value)
                    .map_err(|error| error.named(format!("--{name}")))?;
            }
        }
        settings.validate()?;
        Ok(settings)
    }
}

/// The parsed command line.
#[derive(Debug)]
// There is only one value of this type.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Parsed {
    /// A command.
    Args(Args),
    /// The help text.
    Help(String),
}

/// Parses the command line, without the program's name.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, CliError> {
    let text = |arg: OsString| {
        arg.into_string()
            .map_err(|arg| CliError::Usage(format!("{} is no UTF-8 text", arg.to_string_lossy())))
    };
    let args = ordered(args.into_iter().map(text).collect::<Result<_, _>>()?);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match Args::from_args(&["palm-cli"], &args) {
        Ok(args) => Ok(Parsed::Args(args)),
        Err(exit) if exit.status.is_ok() => Ok(Parsed::Help(exit.output)),
        Err(exit) => Err(CliError::Usage(format!(
            "{}\nRun palm-cli --help for more.",
            exit.output.trim_end()
        ))),
    }
}

/// Returns the arguments in the order that argh needs: general options before the command, `--name=value` split in two, and the
/// payload `-`, which it would take for an option, after `--`.
fn ordered(args: Vec<String>) -> Vec<String> {
    let (mut front, mut rest, mut last) = (Vec::new(), Vec::new(), Vec::new());
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.split_once('=') {
            _ if arg == "--" => last.extend(args.by_ref()),
            _ if arg == "-" => last.push(arg),
            Some((name, value)) if EVERYWHERE.contains(&name) => {
                front.extend([name.to_owned(), value.to_owned()]);
            }
            Some((name, value)) if name.starts_with("--") => {
                rest.extend([name.to_owned(), value.to_owned()]);
            }
            _ if EVERYWHERE.contains(&arg.as_str()) => {
                front.push(arg);
                front.extend(args.next());
            }
            _ => rest.push(arg),
        }
    }
    front.append(&mut rest);
    if !last.is_empty() {
        front.push("--".to_owned());
        front.append(&mut last);
    }
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Parsed, CliError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn args(line: &str) -> Args {
        match parsed(line) {
            Ok(Parsed::Args(args)) => args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn options_may_stand_on_either_side_of_the_command() {
        for line in [
            "--etcd http://a:1 --prefix /x status",
            "status --etcd http://a:1 --prefix=/x",
        ] {
            let args = args(line);
            assert_eq!(
                (args.etcd.as_deref(), args.prefix.as_deref()),
                (Some("http://a:1"), Some("/x")),
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
        for line in ["status a --json", "status --json --watch"] {
            let Command::Status(status) = args(line).command else {
                panic!("{line}")
            };
            assert!(matches!(status.check(), Err(CliError::Usage(_))), "{line}");
        }
    }

    #[test]
    fn help_is_not_an_error() {
        for line in ["--help", "help", "status --help"] {
            assert!(matches!(parsed(line), Ok(Parsed::Help(_))), "{line}");
        }
    }
}
