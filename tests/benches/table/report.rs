//! The report: tables in Markdown, the aims, and the conditions of the measurement.

use std::{
    fmt::{Display, Write as _},
    fs,
    process::Command,
    thread::available_parallelism,
};

use crate::{arguments::Arguments, nats, python};

const LOCK: &str = include_str!("../../../Cargo.lock");

/// A table in Markdown, whose first column is text and whose last is a command.
pub(crate) struct Table(String);

impl Table {
    /// A table without lines.
    pub(crate) fn new(title: &str, first: &str, columns: &[&str]) -> Self {
        let rules = vec!["---:"; columns.len() - 1].join("|");
        Self(format!(
            "### {title}\n\n| {first} | {} |\n|---|{rules}|---|\n",
            columns.join(" | ")
        ))
    }

    /// Adds a line.
    pub(crate) fn line<const N: usize>(&mut self, cells: [String; N]) {
        let _ = writeln!(self.0, "| {} |", cells.join(" | "));
    }

    /// Prints it with its notes.
    pub(crate) fn print(&self, notes: &[String]) {
        println!("{}", self.0);
        for note in notes {
            println!("{note}\n");
        }
    }
}

/// Formats a figure: as an integer from 100 on, otherwise with one decimal; empty if it
/// was not measured.
pub(crate) fn figure(figure: f64) -> String {
    match figure {
        _ if figure.is_nan() => "–".into(),
        100.0.. => format!("{figure:.0}"),
        _ => format!("{figure:.1}"),
    }
}

/// A ratio, if there is one.
pub(crate) fn ratio(ratio: Option<f64>) -> String {
    ratio
        .filter(|ratio| !ratio.is_nan())
        .map_or_else(|| "–".into(), |ratio| format!("{ratio:.2}"))
}

/// One of the ratios that PALM is to reach.
pub(crate) struct Aim([String; 5]);

/// What a ratio is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    /// Returns an aim and its result, if the other subject was measured as well.
    pub(crate) fn new(what: &str, over: &str, reached: Option<f64>, wanted: Wanted) -> Self {
        let is_met = |ratio: f64| match wanted {
            Wanted::AtLeast(least) => ratio >= least,
            Wanted::AtMost(most) => ratio <= most,
        };
        let met = reached.map_or(
            "not measured",
            |ratio| if is_met(ratio) { "yes" } else { "no" },
        );
        let wanted = match wanted {
            Wanted::AtLeast(least) => format!("≥ {least}"),
            Wanted::AtMost(most) => format!("≤ {most}"),
        };
        Self([what, over, &wanted, &ratio(reached), met].map(str::to_owned))
    }
}

/// Prints the results for the aims.
pub(crate) fn aims(aims: &[Aim]) {
    if aims.is_empty() {
        return;
    }
    let mut table = Table::new(
        "Aims",
        "PALM's",
        &["over that of", "aim", "here", "reached"],
    );
    for Aim(cells) in aims {
        table.line(cells.clone());
    }
    table.print(&[]);
}

/// Returns the load average of the last minute.
pub(crate) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}

/// Prints what was compared, how, and on what machine.
pub(crate) fn circumstances(wanted: &Arguments, load_before: &str) {
    println!(
        "Medians of {} rounds of {:?} each.",
        wanted.rounds, wanted.time
    );
    println!("Compared: {}.", versions().join(", "));
    let cores = available_parallelism().map_or(0, usize::from);
    println!(
        "Machine: {cores} cores ({}), load {load_before} before and {} after.",
        processor(),
        load()
    );
}

fn versions() -> Vec<String> {
    let crates = ["palm-peer", "zeromq", "tonic", "async-nats"]
        .map(|name| format!("{name} {}", locked(name)));
    let zmq = "import sys, zmq; print(f'Python {sys.version.split()[0]} with pyzmq {zmq.__version__} \
               (libzmq {zmq.zmq_version()})')";
    let pylm = "from importlib.metadata import version as v; \
                from google.protobuf.internal import api_implementation as a; \
                print(f'pylm {v(\"pylm\")} with pyzmq {v(\"pyzmq\")} and protobuf {v(\"protobuf\")} ({a.Type()})')";
    let broker = nats::installed().map(|(_, version)| version);
    let rustc = Command::new("rustc").arg("--version").output().ok();
    let rustc = rustc.map(|output| {
        String::from_utf8_lossy(&output.stdout)
            .split(" (")
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    });
    crates
        .into_iter()
        .chain(
            [
                broker,
                python::says("python", zmq),
                python::says("pylm", pylm),
                rustc,
            ]
            .into_iter()
            .flatten(),
        )
        .collect()
}

/// The version of a crate that this was built with.
fn locked(name: &str) -> impl Display {
    let entry = LOCK
        .split("[[package]]")
        .find(|entry| entry.contains(&format!("\nname = \"{name}\"\n")));
    let version = entry.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next());
    version.unwrap_or("?").to_owned()
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(
        || "of a kind that the kernel does not name".into(),
        |(_, model)| model.to_owned(),
    )
}
