//! Why a command did not do what it was asked, and with which status the program ends.

use crate::screen::harmless;
use palm_peer::{CallError, Error, ErrorKind, InvalidSetting};
use std::{
    io::{self, Write as _},
    process::ExitCode,
};

/// Says something on stderr, and goes on. Where nobody reads stderr, the status must do.
pub(crate) fn warn(words: &str) {
    // The text may come from servers, or from anyone with write access to etcd.
    let words: Vec<_> = words.trim_end().split('\n').map(harmless).collect();
    let _ = writeln!(io::stderr(), "palm-cli: {}", words.join("\n"));
}

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not be done, for this reason.
    CouldNot(String),
    /// It was asked wrongly.
    Usage(String),
    /// No endpoint of etcd answers.
    Unreachable(String),
    /// Nobody reads what is written, as after `| head`. The reader has what it wants, so this is no error.
    Unread,
}

impl Failure {
    /// Says it on stderr, and gives the exit status.
    pub(crate) fn tell(self) -> ExitCode {
        let (status, words) = match self {
            Self::CouldNot(words) => (1, words),
            Self::Usage(words) => (2, words),
            Self::Unreachable(words) => (3, words),
            Self::Unread => return ExitCode::SUCCESS,
        };
        warn(&words);
        ExitCode::from(status)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let words = error.report();
        match error.kind() {
            ErrorKind::InvalidConfig => Self::Usage(words),
            ErrorKind::EtcdUnreachable => Self::Unreachable(words),
            _ => Self::CouldNot(words),
        }
    }
}

impl From<InvalidSetting> for Failure {
    fn from(setting: InvalidSetting) -> Self {
        Self::Usage(setting.to_string())
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::CouldNot(error.to_string())
    }
}

/// Of writing to stdout.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::CouldNot(format!("cannot write to standard output: {error}")),
        }
    }
}
