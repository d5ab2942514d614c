//! The arguments of a benchmark.

use std::env;

/// Returns the arguments of this benchmark. `cargo bench` adds `--bench`; those without dashes are
/// the benchmark's own.
pub fn bench_words() -> Vec<String> {
    let words = env::args().skip(1);
    words.filter(|word| !word.starts_with("--")).collect()
}
