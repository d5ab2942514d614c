//! How much of the processors was used, which others who use them change less than they change the time.

use std::{fs, process};

/// What `/proc` counts in: `USER_HZ`, the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Microseconds that this process and its living children have run so far, all their threads, kernel included.
pub(crate) fn used() -> f64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ticks: u32 = processes.filter_map(|process| ours(&fs::read_to_string(process.path().join("stat")).ok()?)).sum();
    f64::from(ticks) / TICKS_PER_SECOND * 1e6
}

/// The ticks of a process, by its `stat`, if it is this one or a child of it.
fn ours(stat: &str) -> Option<u32> {
    let (pid, rest) = stat.split_once(" (")?;
    // The name before the state is in parentheses and may hold anything.
    let fields: Vec<&str> = rest.rsplit_once(") ")?.1.split(' ').collect();
    let me = process::id().to_string();
    let [parent, user, system] = [1, 11, 12].map(|field| fields.get(field).copied().unwrap_or_default());
    (pid == me || parent == me).then(|| user.parse::<u32>().unwrap_or(0) + system.parse::<u32>().unwrap_or(0))
}
