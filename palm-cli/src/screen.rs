//! Where the answers go: standard output, and what is known about it.

use futures::{channel::oneshot, future::pending};
use palm_peer::ServerStatus;
use rustix::event::{PollFd, PollFlags};
use std::{
    env,
    io::{self, BufWriter, IsTerminal as _, StdoutLock, Write},
    thread,
};

/// Goes to the first place of the screen, and clears from there to its end; what was scrolled up stays.
const CLEAR: &[u8] = b"\x1b[H\x1b[J";

/// Ends when nobody can read standard output any more, as after `| head`: else a program that has nothing to print for now
/// would not notice. A thread waits for it, so that nothing is polled.
pub(crate) fn reader_gone() -> impl Future<Output = ()> + Unpin {
    let (tx, rx) = oneshot::channel();
    let wait = move || {
        let stdout = io::stdout();
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        while rustix::event::poll(&mut watched, None) == Err(rustix::io::Errno::INTR) {}
        // A closed pipe, socket or terminal. What cannot be watched is noticed when something is written.
        if watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            let _ = tx.send(());
        }
    };
    let started = thread::Builder::new().name("stdout".to_owned()).spawn(wait);
    Box::pin(async move {
        if started.is_err() || rx.await.is_err() {
            pending::<()>().await;
        }
    })
}

/// Standard output.
pub(crate) struct Screen {
    out: BufWriter<StdoutLock<'static>>,
    /// Whether a person looks at it.
    pub terminal: bool,
    color: bool,
}

impl Screen {
    /// That of this process.
    pub(crate) fn stdout() -> Self {
        let out = io::stdout().lock();
        let terminal = out.is_terminal();
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let unable = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { out: BufWriter::new(out), terminal, color: terminal && !unwanted && !unable }
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.trim_end_matches('\n').as_bytes())?;
        self.out.write_all(b"\n")
    }

    /// Writes these bytes and no others.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Ends the line that `bytes`, written last, left open.
    pub(crate) fn end_line(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.ends_with(b"\n") { Ok(()) } else { self.out.write_all(b"\n") }
    }

    /// Shows what was written so far.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Begins a new picture: on a terminal, in place of the last one; elsewhere, behind it. What the terminal showed before the
    /// first one is scrolled up, not erased.
    pub(crate) fn redraw(&mut self, first: bool) -> io::Result<()> {
        match (self.terminal, first) {
            (true, true) => {
                let rows = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
                self.out.write_all("\n".repeat(rows.max(1)).as_bytes())?;
                self.out.write_all(CLEAR)
            }
            (true, false) => self.out.write_all(CLEAR),
            (false, true) => Ok(()),
            (false, false) => self.out.write_all(b"\n"),
        }
    }

    /// How many characters fit into a line; `None` where there is no end to it.
    pub(crate) fn width(&self) -> Option<usize> {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok().filter(|_| self.terminal)?;
        Some(usize::from(size.ws_col)).filter(|&columns| columns > 0)
    }

    /// The words in the colour of a state, where there is colour.
    pub(crate) fn state(&self, state: ServerStatus, text: &str) -> String {
        self.painted(
            match state {
                ServerStatus::Leader => "1;32",
                ServerStatus::Configured => "32",
                ServerStatus::Broken => "31",
                // Also what a later version may add.
                _ => "33",
            },
            text,
        )
    }

    /// The words of a heading.
    pub(crate) fn heading(&self, text: &str) -> String {
        self.painted("1", text)
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The text without what could steer a terminal: anybody who may write to etcd chooses it.
pub(crate) fn harmless(text: &str) -> String {
    // Some characters are no controls, and yet turn around the direction of the text about them.
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}
