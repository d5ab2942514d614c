//! How much of the processors a process has used.

use std::{fs, time::Duration};

/// What `/proc` counts in: `USER_HZ`, the same on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// The processor time that the process `pid` has used, in its threads and the kernel, in steps of 10 ms.
///
/// # Panics
///
/// When there is no such process.
#[must_use]
pub fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    // The name may hold anything. Behind its parenthesis, the 12th and 13th fields are ticks.
    let fields: Vec<_> = stat.rsplit_once(") ").expect("its name").1.split(' ').collect();
    let ticks = [11, 12].map(|at| fields[at].parse::<u32>().expect("ticks"));
    TICK * ticks.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_works_uses_processor_time() {
        let me = std::process::id();
        let before = processor_time(me);
        while processor_time(me) < before + 5 * TICK {
            std::hint::black_box((0..1_000_000_u64).sum::<u64>());
        }
    }
}
