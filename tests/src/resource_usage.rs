//! The resources that a process uses, compared with what it used before.

use crate::resident;
use std::{fmt, fs};

/// Open files, threads and memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceUsage {
    /// Open files, including sockets.
    pub files: usize,
    /// Threads.
    pub threads: usize,
    /// Resident memory in bytes.
    pub memory: u64,
}

impl fmt::Display for ResourceUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} files, {} threads, {} kB",
            self.files,
            self.threads,
            self.memory / 1024
        )
    }
}

impl ResourceUsage {
    /// Returns those of the process `pid` now.
    ///
    /// # Panics
    ///
    /// When there is no such process.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let count = |what: &str| {
            fs::read_dir(format!("/proc/{pid}/{what}"))
                .expect("a living process")
                .count()
        };
        Self {
            files: count("fd"),
            threads: count("task"),
            memory: resident(pid),
        }
    }

    /// Fails if this is more than `before`: by a few files and threads, which come and go, or by a
    /// tenth of the memory beyond what is `known` to stay, in bytes.
    ///
    /// # Panics
    ///
    /// If it is.
    #[track_caller]
    pub fn assert_at_most(&self, before: &Self, known: u64) {
        println!("{before}; then {self}");
        assert!(
            self.files <= before.files + 5,
            "files: {before}; then {self}"
        );
        assert!(
            self.threads <= before.threads + 2,
            "threads: {before}; then {self}"
        );
        assert!(
            self.memory <= before.memory + before.memory / 10 + known,
            "memory: {before}; then {self}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: ResourceUsage = ResourceUsage {
        files: 10,
        threads: 5,
        memory: 1000,
    };

    #[test]
    fn small_growth_is_tolerated() {
        ResourceUsage {
            files: 15,
            threads: 7,
            memory: 1150,
        }
        .assert_at_most(&BEFORE, 50);
    }

    #[test]
    #[should_panic(expected = "memory: ")]
    fn unexpected_growth_is_an_error() {
        ResourceUsage {
            memory: 1151,
            ..BEFORE
        }
        .assert_at_most(&BEFORE, 50);
    }

    #[test]
    fn a_process_has_files_threads_and_memory() {
        let own = ResourceUsage::of(std::process::id());
        assert!(own.files > 2 && own.threads > 0 && own.memory > 0, "{own}");
    }
}
