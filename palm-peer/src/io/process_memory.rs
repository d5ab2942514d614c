//! The memory of this process.

use std::fs;

/// Returns how many bytes of memory the process has; `None` where the system does not say.
pub(crate) fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn linux_says_how_much_memory_the_process_has() {
        let bytes = super::resident().expect("a number");
        assert!((1 << 20..1 << 40).contains(&bytes), "{bytes}");
    }
}
