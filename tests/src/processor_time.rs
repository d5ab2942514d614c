//! The CPU time of a process.

use std::{fs, time::Duration};

/// The unit of CPU time in `/proc`: `USER_HZ`, the same on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// Returns the CPU time that the process `pid` has used, in its threads and the kernel,
/// in steps of 10 ms.
///
/// # Panics
///
/// When there is no such process.
#[must_use]
pub fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    // The name may contain any characters. After its parenthesis, the 12th and 13th
    // fields are ticks.
    let fields: Vec<_> = stat
        .rsplit_once(") ")
        .expect("its name")
        .1
        .split(' ')
        .collect();
    let ticks = [11, 12].map(|at| fields[at].parse::<u32>().expect("ticks"));
    TICK * ticks.iter().sum()
}

/// Returns the CPU time that the living threads of the process `pid` have used, in nanoseconds,
/// without threads that have ended.
///
/// # Panics
///
/// When there is no such process, or the kernel does not count.
#[must_use]
pub fn running_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a living process");
    // A thread may end meanwhile.
    let used =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("schedstat")).ok());
    Duration::from_nanos(
        used.map(|stat| {
            stat.split(' ')
                .next()
                .unwrap_or("")
                .parse::<u64>()
                .expect("ns")
        })
        .sum(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_little_work_uses_a_little_processor_time() {
        let me = std::process::id();
        let mut before = running_time(me);
        for _ in 0..100_000 {
            std::hint::black_box((0..100_000_u64).sum::<u64>());
            std::thread::yield_now();
            // Threads of other tests may end, and their CPU time is not counted any more.
            let now = running_time(me);
            let used = now.saturating_sub(before);
            if !used.is_zero() {
                assert!(!used.as_nanos().is_multiple_of(TICK.as_nanos()), "{used:?}");
                return;
            }
            before = now;
        }
        panic!("it used no processor time");
    }

    #[test]
    fn a_busy_thread_uses_processor_time() {
        let me = std::process::id();
        let before = processor_time(me);
        while processor_time(me) < before + 5 * TICK {
            std::hint::black_box((0..1_000_000_u64).sum::<u64>());
        }
    }
}
