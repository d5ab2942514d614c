//! The command-line arguments.

use std::time::Duration;

use crate::Outcome;

/// The subjects, by their names on the command line.
pub(crate) const SUBJECTS: [&str; 10] = [
    "palm",
    "elsewhere",
    "clients",
    "instances",
    "tcp",
    "zeromq",
    "pyzmq",
    "tonic",
    "nats",
    "pylm",
];

/// Which part of the tables is wanted, and how thoroughly.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// Whether calls are.
    pub calls: bool,
    /// Whether jobs are.
    pub jobs: bool,
    /// How often each subject has its turn, beside the first that does not count.
    pub rounds: usize,
    /// How long each turn is.
    pub time: Duration,
    numbers: Vec<usize>,
    subjects: Vec<String>,
}

impl Arguments {
    /// Parses arguments such as `jobs 3 100 palm pylm rounds=3`; none means everything.
    pub(crate) fn read(words: &[String]) -> Outcome<Self> {
        let mut wanted = Self {
            calls: false,
            jobs: false,
            rounds: 9,
            time: Duration::from_millis(400),
            numbers: Vec::new(),
            subjects: Vec::new(),
        };
        for word in words {
            match (word.as_str(), word.split_once('=')) {
                ("calls", _) => wanted.calls = true,
                ("jobs", _) => wanted.jobs = true,
                (_, Some(("rounds", rounds))) => wanted.rounds = rounds.parse::<usize>()?.max(1),
                (_, Some(("seconds", seconds))) => wanted.time = Duration::try_from_secs_f64(seconds.parse()?)?,
                (subject, _) if SUBJECTS.contains(&subject) => wanted.subjects.push(word.clone()),
                (number, _) => wanted.numbers.push(number.parse().map_err(|_| {
                    format!("what is {word}? calls, jobs, rounds=N, seconds=S, a number, or one of {SUBJECTS:?}")
                })?),
            }
        }
        if wanted.calls == wanted.jobs {
            if !wanted.numbers.is_empty() {
                return Err(
                    "numbers go with one of calls and jobs: calls IN_FLIGHT, jobs STAGES BYTES"
                        .into(),
                );
            }
            wanted.calls = true;
            wanted.jobs = true;
        }
        Ok(wanted)
    }

    /// Whether this subject is.
    pub(crate) fn subject(&self, name: &str) -> bool {
        self.subjects.is_empty() || self.subjects.iter().any(|subject| subject == name)
    }

    /// The number in this place if there is one, else all that are usual.
    pub(crate) fn number_or(&self, place: usize, usual: &[usize]) -> Vec<usize> {
        self.numbers
            .get(place)
            .map_or_else(|| usual.to_vec(), |number| vec![*number])
    }
}
