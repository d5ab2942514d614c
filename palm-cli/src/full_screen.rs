//! The alternate screen of a terminal, for commands that keep running: what the terminal showed
//! before is there again afterwards, however the program ends.

mod list;

pub(crate) use self::list::{Content, List, Next};

use futures::{StreamExt as _, channel::mpsc};
use palm_peer::Timestamp;
use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Hide,
        event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
        execute,
        terminal::{EnterAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use rustix::event::{PollFd, PollFlags, Timespec};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP},
    iterator::Signals,
    low_level::emulate_default_handler,
};
use std::{
    io::{self, BufWriter, Stdout},
    panic,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

/// Leaves the alternate screen and shows the cursor.
const LEAVE: &[u8] = b"\x1b[0m\x1b[?1049l\x1b[?25h";
/// How long the end of the program waits for a picture that is being drawn, and for a terminal that
/// takes no output.
const LEAVE_WITHIN: Duration = Duration::from_millis(200);

/// Whether the alternate screen is shown.
static IS_SHOWN: AtomicBool = AtomicBool::new(false);
/// Held while a picture is written, so that none follows after the screen was left.
static DRAWING: Mutex<()> = Mutex::new(());

/// The alternate screen; left when it is dropped, and also when a signal or a panic ends
/// the program.
pub(crate) struct FullScreen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
    inputs: mpsc::UnboundedReceiver<Input>,
}

/// What happens to the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// A second has passed, or the screen has another size.
    Tick,
    /// A key was pressed.
    Key(KeyCode),
}

impl FullScreen {
    /// Shows the alternate screen of standard output.
    pub(crate) fn enter() -> io::Result<Self> {
        let (tx, inputs) = mpsc::unbounded();
        leave_on_signals()?;
        leave_on_panics();
        show()?;
        let terminal = Terminal::new(CrosstermBackend::new(BufWriter::new(io::stdout())))
            .inspect_err(|_| drop(leave()))?;
        let screen = Self { terminal, inputs };
        thread::Builder::new()
            .name("terminal".to_owned())
            .spawn(move || read_inputs(&tx))?;
        Ok(screen)
    }

    /// Draws a picture.
    pub(crate) fn draw(&mut self, render: impl FnOnce(&mut Frame)) -> io::Result<()> {
        let _drawing = DRAWING.lock();
        self.terminal.draw(render).map(drop)
    }

    /// Returns the next input. Ctrl-C and Ctrl-Z do what they do elsewhere. Cancel safe.
    pub(crate) async fn next(&mut self) -> Input {
        match self.inputs.next().await {
            Some(Input::Key(KeyCode::Char(SUSPEND))) => {
                self.suspend();
                Input::Tick
            }
            Some(input) => input,
            // The thread never ends by itself.
            None => futures::future::pending().await,
        }
    }

    /// Stops the program, as the shell's job control does, and continues on a new screen.
    fn suspend(&mut self) {
        drop(leave());
        let _ = emulate_default_handler(SIGTSTP);
        let _ = show().and_then(|()| self.terminal.clear());
    }
}

/// Returns the time of day, in UTC, without its fraction.
pub(crate) fn clock(now: Timestamp) -> String {
    let now = now.to_string();
    now.get(11..19).unwrap_or_default().to_owned()
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        drop(leave());
    }
}

/// Stands for Ctrl-Z.
const SUSPEND: char = '\u{1a}';

/// Reads the keyboard, and ticks at each full second.
fn read_inputs(tx: &mpsc::UnboundedSender<Input>) {
    loop {
        let next = until_next_second();
        let input = match event::poll(next).and_then(|ready| ready.then(event::read).transpose()) {
            Ok(None | Some(Event::Resize(..))) => Input::Tick,
            Ok(Some(Event::Key(key))) if key.kind == KeyEventKind::Press => input_of(key),
            Ok(Some(_)) => continue,
            // There is no keyboard.
            Err(_) => {
                thread::sleep(next);
                Input::Tick
            }
        };
        if tx.unbounded_send(input).is_err() {
            return;
        }
    }
}

fn input_of(key: KeyEvent) -> Input {
    let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if with_control => {
            end_by(SIGINT);
            Input::Tick
        }
        KeyCode::Char('z') if with_control => Input::Key(KeyCode::Char(SUSPEND)),
        code => Input::Key(code),
    }
}

fn until_next_second() -> Duration {
    let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Duration::from_secs(1).saturating_sub(Duration::from_nanos(since_epoch.subsec_nanos().into()))
}

fn show() -> io::Result<()> {
    IS_SHOWN.store(true, Ordering::SeqCst);
    // Without a keyboard, keys are not read, and signals end the program nevertheless.
    let _ = enable_raw_mode();
    execute!(io::stdout(), EnterAlternateScreen, Hide).inspect_err(|_| drop(leave()))
}

/// Leaves the alternate screen, if it is shown. While what it returns is held, nothing is drawn.
fn leave() -> Option<MutexGuard<'static, ()>> {
    let drawing = lock_drawing();
    if IS_SHOWN.swap(false, Ordering::SeqCst) {
        let _ = disable_raw_mode();
        // Not by `Stdout`, which another thread may have locked.
        let stdout = io::stdout();
        let mut watched = [PollFd::new(&stdout, PollFlags::OUT)];
        let within = Timespec::try_from(LEAVE_WITHIN).ok();
        if rustix::event::poll(&mut watched, within.as_ref()).is_ok_and(|ready| ready > 0) {
            let _ = rustix::io::write(&stdout, LEAVE);
        }
    }
    drawing
}

/// Waits for a picture that is being drawn; not for long, since the terminal may take no output.
fn lock_drawing() -> Option<MutexGuard<'static, ()>> {
    let began = Instant::now();
    loop {
        match DRAWING.try_lock() {
            Ok(drawing) => return Some(drawing),
            Err(_) if began.elapsed() < LEAVE_WITHIN => thread::sleep(Duration::from_millis(5)),
            Err(_) => return None,
        }
    }
}

/// Leaves the screen, and ends the program as this signal does by default.
fn end_by(signal: i32) {
    let _drawing = leave();
    let _ = emulate_default_handler(signal);
}

fn leave_on_signals() -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
    let handle = move || signals.forever().for_each(end_by);
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(handle)
        .map(drop)
}

fn leave_on_panics() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        drop(leave());
        report(panic);
    }));
}
