//! A program under test, and its output.

mod output;

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::child::Held;
use output::{Output, Said};

/// A running program whose output is collected line by line, stdout and stderr together.
///
/// It is killed on drop. When the test panics, the end of its output is printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    held: Mutex<Held>,
    output: Arc<Output>,
    /// Its temporary directory, which is removed after it.
    _runtime: TempDir,
}

/// The configuration of a [`Process`]; from [`Process::builder`].
#[derive(Debug)]
#[must_use = "does nothing until `start`"]
pub struct ProcessBuilder {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

/// A position in a program's output; from [`Process::mark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(usize);

impl ProcessBuilder {
    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<T: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets one environment variable; the others are inherited from the test.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts it, with an empty stdin.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn start(self) -> Process {
        let name = self
            .program
            .file_name()
            .unwrap_or(self.program.as_os_str())
            .to_string_lossy()
            .into_owned();
        let runtime = TempDir::with_prefix("palm-run-").expect("a temporary folder");
        let mut command = Held::command(&self.program);
        command.env("XDG_RUNTIME_DIR", runtime.path());
        command
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            // Lines begin with their level.
            .env("PALM_LOG_FORMAT", "plain")
            .args(self.args)
            .envs(self.env);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut held =
            Held::start(command).unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let output = Arc::new(Output::default());
        let (stdout, stderr) = (held.child().stdout.take(), held.child().stderr.take());
        output.collect(stdout.expect("a piped stdout"));
        output.collect(stderr.expect("a piped stderr"));
        Process {
            name,
            held: Mutex::new(held),
            output,
            _runtime: runtime,
        }
    }
}

impl Process {
    /// Starts `program` with `args`.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn start<T: AsRef<OsStr>>(
        program: impl AsRef<Path>,
        args: impl IntoIterator<Item = T>,
    ) -> Self {
        Self::builder(program).args(args).start()
    }

    /// Returns a builder for a program with arguments and an environment; a name without a slash is
    /// looked up in `PATH`.
    pub fn builder(program: impl AsRef<Path>) -> ProcessBuilder {
        ProcessBuilder {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Returns its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.held().pid()
    }

    /// Returns its resident memory, in bytes; see [`resident`](crate::resident).
    #[must_use]
    pub fn resident(&self) -> u64 {
        crate::resident(self.pid())
    }

    /// Returns the CPU time that it has used, in its threads and the kernel; see
    /// [`processor_time`](crate::processor_time).
    #[must_use]
    pub fn processor_time(&self) -> Duration {
        crate::processor_time(self.pid())
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.held().signal(Signal::TERM);
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) {
        self.held().signal(Signal::INT);
    }

    /// Sends SIGHUP, as the kernel does when the terminal is closed.
    pub fn hang_up(&self) {
        self.held().signal(Signal::HUP);
    }

    /// Sends SIGKILL.
    pub fn kill(&self) {
        self.held().signal(Signal::KILL);
    }

    /// Freezes all its threads: connections stay open and are not answered. All are stopped
    /// when it returns.
    pub fn freeze(&self) {
        self.held().freeze();
    }

    /// Thaws it after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.held().signal(Signal::CONT);
    }

    /// Returns whether it is still running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.held().ended().is_none()
    }

    /// Waits until it has ended, and all its output is collected.
    ///
    /// # Panics
    ///
    /// When it has not ended within `timeout`; the message has its output.
    pub fn wait(&self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        // Polls, so that another thread can send signals meanwhile.
        let status = loop {
            let ended = self.held().wait(Duration::ZERO);
            match ended {
                Some(status) => break status,
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
                None => panic!(
                    "{} has not ended within {timeout:?}:\n{}",
                    self.name,
                    self.tail()
                ),
            }
        };
        // One of its children may keep the output open longer.
        let open = |said: &mut Said| said.open > 0;
        drop(
            self.output
                .more
                .wait_timeout_while(self.output.said(), Duration::from_secs(1), open),
        );
        status
    }

    /// Returns all lines so far, of stdout and stderr, in the order of their arrival.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.output
            .said()
            .lines
            .iter()
            .map(|(line, _)| line.clone())
            .collect()
    }

    /// Returns the lines after `mark` so far.
    #[must_use]
    pub fn lines_after(&self, mark: Mark) -> Vec<String> {
        self.output.said().lines[mark.0..]
            .iter()
            .map(|(line, _)| line.clone())
            .collect()
    }

    /// Returns the end of the output so far, for
    /// [`wait_for_line_after`](Self::wait_for_line_after).
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.output.said().lines.len())
    }

    /// Waits for the first line of all output, past and future, that `wanted` accepts. Returns it
    /// and its time of arrival.
    ///
    /// # Panics
    ///
    /// When there is none within `timeout`, or the process ends before; the message has its output.
    #[track_caller]
    pub fn wait_for_line(
        &self,
        wanted: impl Fn(&str) -> bool,
        timeout: Duration,
    ) -> (String, Instant) {
        self.wait_for_line_after(Mark(0), wanted, timeout)
    }

    /// As [`wait_for_line`](Self::wait_for_line), only for the lines after `mark`.
    ///
    /// # Panics
    ///
    /// As [`wait_for_line`](Self::wait_for_line).
    #[track_caller]
    pub fn wait_for_line_after(
        &self,
        mark: Mark,
        wanted: impl Fn(&str) -> bool,
        timeout: Duration,
    ) -> (String, Instant) {
        let deadline = Instant::now() + timeout;
        let mut seen = mark.0;
        let mut said = self.output.said();
        loop {
            if let Some(found) = said.lines[seen..].iter().find(|(line, _)| wanted(line)) {
                return found.clone();
            }
            seen = said.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = said.open == 0;
            if ended || left.is_zero() {
                drop(said);
                let when = if ended {
                    "before its output ended".into()
                } else {
                    format!("within {timeout:?}")
                };
                panic!(
                    "{} did not say the line {when}:\n{}",
                    self.name,
                    self.tail()
                );
            }
            said = self
                .output
                .more
                .wait_timeout(said, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "--- {} ({}) said last:\n{}",
                self.name,
                self.pid(),
                self.tail()
            );
        }
    }
}
