//! Checks the seeds, and thousands of mutations of them, which are the same in every run.

use super::TARGETS;
use fastrand::Rng;
use std::{fs, path::Path};

/// Tokens that break parsers more often than random bytes do.
const TOKENS: [&[u8]; 14] = [
    b"\"", b"\\", b"{", b"[", b"}", b"]", b"null", b"1e999", b"\\ud800", b"\xff", b"\x1b[2J",
    b"\0", b"\x7f", b"-1",
];

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(target);
    let files =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut seeds: Vec<_> = files
        .map(|file| {
            let path = file.expect("an entry").path();
            (path.display().to_string(), fs::read(&path).expect("a file"))
        })
        .collect();
    // The order of directory entries is arbitrary.
    seeds.sort();
    assert!(
        seeds.len() >= 10,
        "{} has {} seeds",
        folder.display(),
        seeds.len()
    );
    seeds
}

/// Returns a mutation of this input.
fn mutated(rng: &mut Rng, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=rng.usize(..4) {
        let at = rng.usize(..=bytes.len());
        let end = (at + rng.usize(..32)).min(bytes.len());
        match rng.u8(..8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            3 if at < bytes.len() => bytes[at] = rng.u8(..),
            4 => {
                let token = TOKENS[rng.usize(..TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
            5 => {
                let twice = bytes[at..end].repeat(rng.usize(1..4));
                bytes.splice(at..at, twice);
            }
            6 => {
                let from = rng.usize(..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => bytes.extend(std::iter::repeat_n(rng.u8(..), rng.usize(..64))),
        }
    }
    // The longest seeds test the length; mutations of full length would take too long.
    bytes.truncate(4096);
    bytes
}

#[test]
fn every_seed_keeps_the_invariants() {
    for (target, keeps_laws) in TARGETS {
        for (name, seed) in seeds(target) {
            // The name is printed when a property is violated.
            println!("{name}");
            keeps_laws(&seed);
        }
    }
}

#[test]
fn thousands_of_mutated_seeds_keep_the_invariants() {
    for (target, keeps_laws) in TARGETS {
        let seeds = seeds(target);
        let rounds = if target == "opening" { 2_000 } else { 20_000 };
        for number in 0..rounds {
            let mut rng = Rng::with_seed(number);
            let (seed, other) = (
                &seeds[rng.usize(..seeds.len())].1,
                &seeds[rng.usize(..seeds.len())].1,
            );
            let input = mutated(&mut rng, seed, other);
            let kept = std::panic::catch_unwind(|| keeps_laws(&input));
            assert!(
                kept.is_ok(),
                "{target}, input {number}: {}",
                input.escape_ascii()
            );
        }
    }
}
