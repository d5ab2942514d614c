//! The supervising process: starts the measuring process, and cleans up after it, however it ends.

use crate::{Outcome, number};
use std::{
    env,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

/// How long all may take, in seconds, when nothing is said: for each server, and besides.
const SECONDS: usize = 420;
const SECONDS_PER_1000: usize = 300;

/// The measuring process and all that it started, in a process group of their own; dropped,
/// they are killed.
struct Group(Child);

impl Group {
    fn ended(&mut self) -> Outcome<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Also when the measuring process has ended: its children must end as well.
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Measures what the words name. Ends at SIGINT or SIGTERM, and when its time is over.
pub(crate) fn run(words: &[&str]) -> Outcome<()> {
    let sizes: usize = words
        .iter()
        .filter_map(|word| word.parse::<usize>().ok())
        .sum();
    let count = words
        .iter()
        .filter(|word| word.parse::<usize>().is_ok())
        .count()
        .max(1);
    let seconds = number(
        words,
        "seconds",
        SECONDS * count + SECONDS_PER_1000 * sizes / 1000,
    )?;
    // All files are here, including etcd's data, so that the disk is not measured.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() {
        memory.to_owned()
    } else {
        env::temp_dir()
    };
    let folder = tempfile::Builder::new()
        .prefix("palm-scale-")
        .tempdir_in(place)?;
    let mut stop = Box::pin(palm_peer::signals()?);
    let mut command = Command::new(env::current_exe()?);
    command
        .arg("measure")
        .args(words)
        .env("TMPDIR", folder.path())
        .process_group(0);
    let mut group = Group(command.spawn()?);
    let deadline = Instant::now() + Duration::from_secs(u64::try_from(seconds)?);
    loop {
        if let Some(status) = group.ended()? {
            return if status.success() {
                Ok(())
            } else {
                Err(format!("the measurement failed: {status}").into())
            };
        }
        if Instant::now() > deadline {
            return Err(format!("not done within {seconds} s; seconds=… allows more").into());
        }
        let tick = smol::Timer::after(Duration::from_millis(50));
        if let futures::future::Either::Left(_) =
            smol::block_on(futures::future::select(&mut stop, tick))
        {
            return Err("interrupted".into());
        }
    }
}
