//! What a process holds, to be compared with what it held before.

use crate::resident;
use std::{fmt, fs};

/// Open files, threads and memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    /// Files that it has open, sockets among them.
    pub files: usize,
    /// Threads.
    pub threads: usize,
    /// Bytes that it has resident.
    pub memory: u64,
}

impl fmt::Display for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} files, {} threads, {} kB", self.files, self.threads, self.memory / 1024)
    }
}

impl Holdings {
    /// Those of the process `pid` now.
    ///
    /// # Panics
    ///
    /// When there is no such process.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).expect("a living process").count();
        Self { files: count("fd"), threads: count("task"), memory: resident(pid) }
    }

    /// Fails if this is more than `before`: by a few files and threads, which come and go, or by a tenth of the memory beyond
    /// what is `known` to stay, in bytes.
    ///
    /// # Panics
    ///
    /// If it is.
    #[track_caller]
    pub fn are_no_more_than(&self, before: &Self, known: u64) {
        println!("{before}; then {self}");
        assert!(self.files <= before.files + 5, "files: {before}; then {self}");
        assert!(self.threads <= before.threads + 2, "threads: {before}; then {self}");
        assert!(self.memory <= before.memory + before.memory / 10 + known, "memory: {before}; then {self}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Holdings = Holdings { files: 10, threads: 5, memory: 1000 };

    #[test]
    fn a_little_more_is_no_more() {
        Holdings { files: 15, threads: 7, memory: 1150 }.are_no_more_than(&BEFORE, 50);
    }

    #[test]
    #[should_panic(expected = "memory: ")]
    fn what_stays_without_being_known_is_more() {
        Holdings { memory: 1151, ..BEFORE }.are_no_more_than(&BEFORE, 50);
    }

    #[test]
    fn a_process_holds_files_threads_and_memory() {
        let own = Holdings::of(std::process::id());
        assert!(own.files > 2 && own.threads > 0 && own.memory > 0, "{own}");
    }
}
