//! Child processes that cannot survive the test.

use std::{
    fs, io,
    path::Path,
    process::{Child, Command, ExitStatus},
    sync::{Mutex, OnceLock, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{eventually, gate};

const SETPRIV: &str = "/usr/bin/setpriv";

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// A started process. On drop it is killed and awaited, even if it is frozen.
#[derive(Debug)]
pub(crate) struct Held(Child);

impl Held {
    /// Starts `command`, which the kernel kills if the test's process dies without dropping it.
    ///
    /// The kernel watches the *thread* that started a child, so one thread that lives as
    /// long as the process starts them all; a test's own thread may end while the child
    /// lives on in a `static`.
    pub(crate) fn start(command: Command) -> io::Result<Self> {
        static STARTER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
        gate::enter();
        let starter = STARTER.get_or_init(|| {
            let (orders, inbox) = mpsc::channel::<Order>();
            thread::spawn(move || {
                for (mut command, answer) in inbox {
                    let _ = answer.send(command.spawn());
                }
            });
            Mutex::new(orders)
        });
        let (answer, outcome) = mpsc::channel();
        let orders = starter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        orders
            .send((command, answer))
            .expect("the starting thread lives");
        outcome
            .recv()
            .expect("the starting thread answers")
            .map(Held)
    }

    /// Returns a command for `program` that dies with the thread that starts it, if
    /// `setpriv` is installed.
    pub(crate) fn command(program: &Path) -> Command {
        if Path::new(SETPRIV).exists() {
            let mut command = Command::new(SETPRIV);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        }
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends `signal`, unless the process has ended.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let pid = i32::try_from(self.0.id())
                .ok()
                .and_then(Pid::from_raw)
                .expect("a pid is positive");
            kill_process(pid, signal).expect("a signal to one's own child");
        }
    }

    /// Stops all its threads, and waits until the kernel has done so.
    pub(crate) fn freeze(&mut self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.pid());
        eventually(
            "all threads of a process are stopped",
            Duration::from_secs(5),
            || {
                let threads = || fs::read_dir(&tasks).ok().into_iter().flatten().flatten();
                let still =
                    self.ended().is_some() || threads().all(|thread| stands_still(&thread.path()));
                still.then_some(())
            },
        );
    }

    /// Returns its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("the state of one's own child")
    }

    /// Waits until it has ended; returns `None` if it has not within `timeout`.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.ended() {
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
                end => return end,
            }
        }
    }
}

/// Whether a thread, by its folder in `/proc`, is stopped or gone.
fn stands_still(thread: &Path) -> bool {
    let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
    // The name before the state is in parentheses and may contain any characters.
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']))
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
