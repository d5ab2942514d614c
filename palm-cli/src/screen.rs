//! Standard output, and its properties as a terminal.

use futures::{channel::oneshot, future::pending};
use palm_peer::ServerStatus;
use rustix::event::{PollFd, PollFlags};
use std::{
    env,
    io::{self, BufWriter, IsTerminal as _, StdoutLock, Write},
    thread,
};

/// Returns a future that ends when standard output is closed, as after `| head`: a program that has
/// nothing to print would not notice otherwise. A thread waits for it, without polling.
pub(crate) fn reader_gone() -> impl Future<Output = ()> + Unpin {
    let (tx, rx) = oneshot::channel();
    let wait = move || {
        let stdout = io::stdout();
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        while rustix::event::poll(&mut watched, None) == Err(rustix::io::Errno::INTR) {}
        // A closed pipe, socket or terminal. Otherwise the next write fails.
        if watched[0]
            .revents()
            .intersects(PollFlags::ERR | PollFlags::HUP)
        {
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
    /// Whether it is a terminal.
    pub terminal: bool,
    /// Whether it is a terminal whose cursor can be moved.
    pub movable: bool,
    /// Whether colours are on.
    pub color: bool,
}

impl Screen {
    /// Returns the standard output of this process.
    pub(crate) fn stdout() -> Self {
        let out = io::stdout().lock();
        let terminal = out.is_terminal();
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let unable = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            out: BufWriter::new(out),
            terminal,
            movable: terminal && !unable,
            color: terminal && !unwanted && !unable,
        }
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.trim_end_matches('\n').as_bytes())?;
        self.out.write_all(b"\n")
    }

    /// Writes exactly these bytes.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Writes a line end unless `bytes`, written last, ended with one.
    pub(crate) fn end_line(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.ends_with(b"\n") {
            Ok(())
        } else {
            self.out.write_all(b"\n")
        }
    }

    /// Flushes the output.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Begins a new table after the last one.
    pub(crate) fn next_table(&mut self, first: bool) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            self.out.write_all(b"\n")
        }
    }

    /// Returns the width of the terminal in characters; `None` without a terminal.
    pub(crate) fn width(&self) -> Option<usize> {
        if !self.terminal {
            return None;
        }
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        Some(usize::from(size.ws_col)).filter(|&columns| columns > 0)
    }

    /// Returns the text in the colour of a state, if colours are on.
    pub(crate) fn state(&self, state: ServerStatus, text: &str) -> String {
        self.painted(
            match state {
                ServerStatus::Leader => "1;32",
                ServerStatus::Configured => "32",
                ServerStatus::Broken => "31",
                // Also for states that a later version may add.
                _ => "33",
            },
            text,
        )
    }

    /// Returns the text of a heading.
    pub(crate) fn heading(&self, text: &str) -> String {
        self.painted("1", text)
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Returns the text with control characters escaped: anyone with write access to etcd
/// may have chosen it.
pub(crate) fn harmless(text: &str) -> String {
    // Some characters are not control characters, but change the direction of the text around them.
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .map(|c| if steers(c) { '\u{fffd}' } else { c })
        .collect()
}
