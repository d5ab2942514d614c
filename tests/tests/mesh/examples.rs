//! The examples that run a whole mesh in one program work, and leave nothing behind.

// Tests fail by panicking.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use palm_tests::{Etcd, Process, example};
use std::time::Duration;

/// Longer than an example takes that computes, in a debug build on a busy machine.
const AT_MOST: Duration = Duration::from_secs(120);

/// What an example says; it must end well.
fn run(etcd: &Etcd, name: &str, args: &[&str]) -> Vec<String> {
    let process = Process::builder(example(name))
        .args(args)
        .env("PALM_ETCD", etcd.endpoint())
        .start();
    let status = process.wait(AT_MOST);
    let lines = process.lines();
    assert!(status.success(), "{name}: {status}: {lines:#?}");
    let left = etcd.etcdctl(&["get", "--prefix", "--keys-only", "/servers/"]);
    assert_eq!(left, "", "whoever ends leaves the mesh");
    lines
}

/// The number behind these words.
fn number(lines: &[String], words: &str) -> f64 {
    let rest = lines
        .iter()
        .find_map(|line| line.split_once(words))
        .expect("the words")
        .1
        .trim_start();
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    rest[..end].trim_end_matches('.').parse().expect("a number")
}

#[test]
fn word_count_matches_a_local_count() {
    let etcd = Etcd::start();
    let lines = run(&etcd, "word_count", &[]);
    assert_eq!(lines.len(), 11, "{lines:#?}");
    let counts: Vec<u32> = lines[..10]
        .iter()
        .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
        .collect();
    assert!(
        lines[0].ends_with(" the") && counts.is_sorted_by(|a, b| a >= b),
        "{lines:#?}"
    );

    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(
        file.path(),
        "To be, or not\n\n\nto be: -- that is\n\n(the) question\n",
    )
    .expect("it can be written");
    let lines = run(
        &etcd,
        "word_count",
        &[file.path().to_str().expect("a path that is text")],
    );
    assert_eq!(
        lines[..3],
        ["     2 be", "     2 to", "     1 is"],
        "{lines:#?}"
    );
    assert_eq!(
        lines.last().map(String::as_str),
        Some("10 words, 8 different ones")
    );
}

#[test]
fn monte_carlo_matches_the_formula() {
    let etcd = Etcd::start();
    let lines = run(
        &etcd,
        "monte_carlo",
        &["--instances", "2", "--messages", "40", "--paths", "5000"],
    );
    for instances in [1, 2] {
        let words = format!("200000 paths on {instances} of 2 instances in ");
        assert!(
            lines.iter().any(|line| line.starts_with(&words)),
            "{lines:#?}"
        );
    }
    assert!(number(&lines, "speed-up:") > 0.0);
    let (value, error) = (
        number(&lines, "Monte Carlo:"),
        number(&lines, "standard error"),
    );
    // From a table: spot 100, strike 105, rate 3 %, volatility 20 %, one year.
    let formula = number(&lines, "Black-Scholes:");
    assert!((formula - 7.1281).abs() < 0.001, "{formula}");
    assert!(
        (value - formula).abs() <= 4.0 * error && error < 0.05,
        "{lines:#?}"
    );
}
