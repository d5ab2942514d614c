//! Errors of commands, and their exit statuses.

use crate::screen::harmless;
use palm_peer::{CallError, Error, ErrorKind, InvalidSetting};
use std::{
    io::{self, Write as _},
    process::ExitCode,
};

/// Prints a message to stderr. A closed stderr is ignored: the exit status remains.
pub(crate) fn warn(message: &str) {
    // The text may come from servers, or from anyone with write access to etcd.
    let message: Vec<_> = message.trim_end().split('\n').map(harmless).collect();
    let _ = writeln!(io::stderr(), "palm-cli: {}", message.join("\n"));
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum CliError {
    /// It failed for this reason.
    CouldNot(String),
    /// The command line or a setting is wrong.
    Usage(String),
    /// No endpoint of etcd answers.
    Unreachable(String),
    /// The output is closed, as after `| head`. This is not an error.
    Unread,
}

impl CliError {
    /// Prints the error to stderr, and returns the exit status.
    pub(crate) fn report(self) -> ExitCode {
        let (status, message) = match self {
            Self::CouldNot(message) => (1, message),
            Self::Usage(message) => (2, message),
            Self::Unreachable(message) => (3, message),
            Self::Unread => return ExitCode::SUCCESS,
        };
        warn(&message);
        ExitCode::from(status)
    }
}

impl From<Error> for CliError {
    fn from(error: Error) -> Self {
        let message = error.report();
        match error.kind() {
            ErrorKind::InvalidConfig => Self::Usage(message),
            ErrorKind::EtcdUnreachable => Self::Unreachable(message),
            _ => Self::CouldNot(message),
        }
    }
}

impl From<InvalidSetting> for CliError {
    fn from(setting: InvalidSetting) -> Self {
        Self::Usage(setting.to_string())
    }
}

impl From<CallError> for CliError {
    fn from(error: CallError) -> Self {
        Self::CouldNot(error.to_string())
    }
}

/// An error of writing to stdout.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::CouldNot(format!("cannot write to standard output: {error}")),
        }
    }
}
