//! The memory of a process.

use std::fs;

/// Returns the resident memory of the process `pid`, in bytes; 0 when there is no such process.
#[must_use]
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
    kilobytes.map_or(0, |kilobytes: u64| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_memory_is_resident() {
        let before = resident(std::process::id());
        let block = vec![1_u8; 64 << 20];
        let after = resident(std::process::id());
        assert!(
            before > 0 && after > before + (48 << 20),
            "{before} before, {after} after {} bytes",
            block.len()
        );
        assert_eq!(resident(u32::MAX), 0);
    }
}
