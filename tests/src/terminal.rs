//! A program on a terminal, and what a person would see there.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    num::NonZero,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _, unix::fs::OpenOptionsExt as _},
    path::Path,
    process::{Command, ExitStatus},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::OFlags,
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::child::Held;

/// How many lines are kept that were scrolled off the screen.
const SCROLLBACK: usize = 1000;

/// A program on a terminal of its own. It is killed on drop. When the test panics, the screen
/// is printed.
pub struct Terminal {
    held: Mutex<Held>,
    master: File,
    screen: Arc<Mutex<Screen>>,
}

/// What the program wrote, and what that looks like.
struct Screen {
    parser: vt100::Parser,
    written: Vec<u8>,
}

impl Terminal {
    /// Starts a program on a terminal of this many columns and rows, which knows colours and
    /// cursor movements.
    #[must_use]
    pub fn start<T: AsRef<OsStr>>(
        (columns, rows): (u16, u16),
        program: impl AsRef<Path>,
        args: impl IntoIterator<Item = T>,
        env: &[(&str, &str)],
    ) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master)
            .and_then(|()| unlockpt(&master))
            .expect("it can be used");
        tcsetwinsize(&master, size(columns, rows)).expect("a size");
        let name = ptsname(&master, Vec::new()).expect("its name");
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NOCTTY.bits().cast_signed())
            .open(OsStr::from_bytes(name.to_bytes()))
            .expect("the program's side");
        let held = Held::start(on_terminal(&slave, program.as_ref(), args, env))
            .expect("the program starts");
        let screen = Arc::new(Mutex::new(Screen {
            parser: vt100::Parser::new(positive(rows), positive(columns), SCROLLBACK),
            written: Vec::new(),
        }));
        let master = File::from(master);
        collect(
            master.try_clone().expect("a descriptor"),
            Arc::clone(&screen),
        );
        Self {
            held: Mutex::new(held),
            master,
            screen,
        }
    }

    /// Returns the rows of the screen, without spaces at their ends.
    pub fn rows(&self) -> Vec<String> {
        let screen = self.screen();
        let (_, columns) = screen.parser.screen().size();
        let rows = screen.parser.screen().rows(0, columns.get());
        rows.map(|row| row.trim_end().to_owned()).collect()
    }

    /// Returns whether the alternate screen is shown.
    pub fn is_alternate(&self) -> bool {
        self.screen().parser.screen().alternate_screen()
    }

    /// Returns whether the cursor is seen.
    pub fn has_cursor(&self) -> bool {
        !self.screen().parser.screen().hide_cursor()
    }

    /// Returns everything that was written so far.
    pub fn written(&self) -> String {
        String::from_utf8_lossy(&self.screen().written).into_owned()
    }

    /// Waits until `wanted` finds what it looks for among the rows of the screen.
    #[track_caller]
    pub fn wait_for<T>(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&[String]) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + within;
        loop {
            if let Some(found) = wanted(&self.rows()) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: not within {within:?}:\n{}",
                self.rows().join("\n")
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Types keys.
    pub fn type_keys(&self, keys: &str) {
        (&self.master)
            .write_all(keys.as_bytes())
            .expect("the terminal takes keys");
    }

    /// Gives the terminal another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let mut screen = self.screen();
        screen
            .parser
            .screen_mut()
            .set_size(positive(rows), positive(columns));
        tcsetwinsize(&self.master, size(columns, rows)).expect("a size");
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.held().signal(Signal::TERM);
    }

    /// Sends SIGHUP, as the kernel does when the terminal is closed.
    pub fn hang_up(&self) {
        self.held().signal(Signal::HUP);
    }

    /// Waits until the program has ended, and everything that it wrote was read.
    #[track_caller]
    pub fn wait(&self, within: Duration) -> ExitStatus {
        let ended = self.held().wait(within);
        let status = ended
            .unwrap_or_else(|| panic!("not ended within {within:?}:\n{}", self.rows().join("\n")));
        // The last bytes arrive after the end.
        let mut length = usize::MAX;
        while std::mem::replace(&mut length, self.screen().written.len()) != length {
            thread::sleep(Duration::from_millis(20));
        }
        status
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the screen:\n{}", self.rows().join("\n"));
        }
    }
}

fn positive(count: u16) -> NonZero<u16> {
    NonZero::new(count).expect("a terminal has rows and columns")
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Returns a command whose input, output and controlling terminal this is, by setsid(1).
fn on_terminal<T: AsRef<OsStr>>(
    slave: &File,
    program: &Path,
    args: impl IntoIterator<Item = T>,
    env: &[(&str, &str)],
) -> Command {
    let side = || OwnedFd::from(slave.try_clone().expect("a descriptor"));
    let mut command = Held::command(Path::new("setsid"));
    command.args(["--ctty", "--wait"]).arg(program).args(args);
    for name in ["PALM_ETCD", "PALM_PREFIX", "PALM_USER", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
        .env("TERM", "xterm-256color")
        .envs(env.iter().copied());
    command.stdin(side()).stdout(side()).stderr(side());
    command
}

/// Reads what is written, until the terminal is closed.
fn collect(mut master: File, screen: Arc<Mutex<Screen>>) {
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count) = master.read(&mut bytes)
            && count > 0
        {
            let mut screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
            screen.parser.process(&bytes[..count]);
            screen.written.extend_from_slice(&bytes[..count]);
        }
    });
}
