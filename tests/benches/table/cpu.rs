//! CPU time, which other load on the machine affects less than wall time.

use std::{fs, process};

/// The unit of CPU time in `/proc`: `USER_HZ`, the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Returns the CPU time in microseconds that this process and its living children have used, all
/// threads, kernel included.
pub(crate) fn used() -> f64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ticks: u32 = processes
        .filter_map(|process| ours(&fs::read_to_string(process.path().join("stat")).ok()?))
        .sum();
    f64::from(ticks) / TICKS_PER_SECOND * 1e6
}

/// The ticks of a process, by its `stat`, if it is this one or a child of it.
fn ours(stat: &str) -> Option<u32> {
    let (pid, rest) = stat.split_once(" (")?;
    // The name before the state is in parentheses and may contain any characters.
    let fields: Vec<&str> = rest.rsplit_once(") ")?.1.split(' ').collect();
    let me = process::id().to_string();
    let [parent, user, system] =
        [1, 11, 12].map(|field| fields.get(field).copied().unwrap_or_default());
    (pid == me || parent == me)
        .then(|| user.parse::<u32>().unwrap_or(0) + system.parse::<u32>().unwrap_or(0))
}
