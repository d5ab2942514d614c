//! Turns of the subjects, and their results.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use palm_tests::median;

use crate::{Outcome, arguments::Arguments, cpu, report};

/// The load of a subject: the messages in flight, and the duration.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// One payload for each message in flight. Its first bytes are its position, which
    /// identifies the answer.
    pub payloads: Vec<Bytes>,
    /// After this time nothing more is sent; the messages in flight are awaited.
    pub time: Duration,
}

impl Load {
    /// At least 4 bytes each.
    pub(crate) fn new(in_flight: usize, size: usize, time: Duration) -> Self {
        let payload = |place: usize| {
            let mut payload = vec![7; size.max(4)];
            payload[..4]
                .copy_from_slice(&u32::try_from(place).expect("a small number").to_le_bytes());
            Bytes::from(payload)
        };
        Self {
            payloads: (0..in_flight).map(payload).collect(),
            time,
        }
    }

    /// How many messages are in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.payloads.len()
    }

    /// How many bytes each has.
    pub(crate) fn size(&self) -> usize {
        self.payloads[0].len()
    }

    /// Fails if an answer is not the echo of this position.
    pub(crate) fn verify(&self, place: usize, answer: &[u8]) {
        let sent = &self.payloads[place];
        assert_eq!(
            (answer.len(), &answer[..4]),
            (sent.len(), &sent[..4]),
            "the answer is another one's"
        );
    }
}

/// Returns the position of a payload among those in flight.
pub(crate) fn place_of(payload: &[u8]) -> usize {
    let place = payload
        .first_chunk()
        .map_or(0, |place| u32::from_le_bytes(*place));
    place.try_into().unwrap_or(0)
}

/// The result of one turn of a subject.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    /// The median round-trip time in microseconds; NaN if it was not measured.
    pub p50: f64,
    /// The 99th percentile of the round-trip time.
    pub p99: f64,
    /// Answers in a second.
    pub per_second: f64,
    /// How many answers there were.
    pub count: f64,
    /// Microseconds of CPU time in processes that have ended; living ones are measured.
    pub ended: f64,
    /// Microseconds of CPU time per answer, of all processes involved.
    pub cpu: f64,
    /// The load of the machine in the last minute, this benchmark's own included.
    pub load: f64,
}

impl Turn {
    /// Of these trips, which took so long in all.
    pub(crate) fn new(mut trips: Vec<Duration>, took: Duration) -> Self {
        trips.sort_unstable();
        let quantile = |percent: usize| {
            trips[(trips.len() * percent / 100).min(trips.len() - 1)].as_secs_f64() * 1e6
        };
        Self {
            p50: quantile(50),
            p99: quantile(99),
            ..Self::counted(trips.len(), took)
        }
    }

    /// Of so many messages, which took so long in all.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn counted(messages: usize, took: Duration) -> Self {
        let count = messages as f64;
        let (p50, p99, cpu, load) = (f64::NAN, f64::NAN, f64::NAN, f64::NAN);
        Self {
            p50,
            p99,
            per_second: count / took.as_secs_f64(),
            count,
            ended: 0.0,
            cpu,
            load,
        }
    }
}

/// A subject: a server, and a way to load it.
pub(crate) trait Subject {
    /// Loads it once.
    fn turn(&mut self, load: &Load) -> Outcome<Turn>;
}

/// One line of a table: a subject and its turns.
pub(crate) struct Row {
    /// What stands in the first column.
    pub name: String,
    /// The words that make this program measure it alone.
    pub alone: String,
    subject: Box<dyn Subject>,
    turns: Vec<Turn>,
}

impl Row {
    /// The median of a figure over all turns.
    pub(crate) fn median(&self, figure: fn(&Turn) -> f64) -> f64 {
        median(self.turns.iter().map(figure).collect())
    }

    /// The median of this row's figure over another row's, each pair of the same round.
    pub(crate) fn over(&self, other: &Self, figure: fn(&Turn) -> f64) -> f64 {
        median(
            self.turns
                .iter()
                .zip(&other.turns)
                .map(|(mine, other)| figure(mine) / figure(other))
                .collect(),
        )
    }
}

/// All lines of a table, and why lines are missing.
pub(crate) struct Rows<'a> {
    wanted: &'a Arguments,
    all: Vec<Row>,
    skipped: Vec<String>,
}

impl<'a> Rows<'a> {
    /// No lines yet.
    pub(crate) fn new(wanted: &'a Arguments) -> Self {
        Self {
            wanted,
            all: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Adds the subject that `start` starts, if it is wanted and can be had. `words` are for
    /// measuring it alone; the last is what the command line calls it.
    pub(crate) fn add<S: Subject + 'static>(
        &mut self,
        name: &str,
        words: String,
        start: impl FnOnce() -> Outcome<S>,
    ) {
        if !words
            .rsplit(' ')
            .next()
            .is_some_and(|subject| self.wanted.subject(subject))
        {
            return;
        }
        match start() {
            Ok(subject) => {
                let row = Row {
                    name: name.to_owned(),
                    alone: words,
                    subject: Box::new(subject),
                    turns: Vec::new(),
                };
                self.all.push(row);
            }
            Err(why) => {
                let why = why.to_string();
                self.skipped.push(format!(
                    "SKIPPED: {name}: {}",
                    why.trim_start_matches("SKIPPED: ")
                ));
            }
        }
    }

    /// Gives every row its turn in every round, so that other load on the machine affects all
    /// equally. The first round opens connections, and does not count.
    pub(crate) fn measure(&mut self, load: &Load) -> Outcome<()> {
        for round in 0..=self.wanted.rounds {
            for row in &mut self.all {
                let before = cpu::used();
                let mut turn = row
                    .subject
                    .turn(load)
                    .map_err(|error| format!("{}: {error}", row.name))?;
                turn.cpu = (cpu::used() - before + turn.ended) / turn.count;
                turn.load = report::load().parse().unwrap_or(f64::NAN);
                if round > 0 {
                    row.turns.push(turn);
                }
            }
        }
        Ok(())
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Row> {
        self.all.iter()
    }

    /// The row of this name, if it was measured.
    pub(crate) fn named(&self, name: &str) -> Option<&Row> {
        self.all.iter().find(|row| row.name == name)
    }

    /// Which rows are missing, and why.
    pub(crate) fn skipped(&self) -> &[String] {
        &self.skipped
    }
}

/// A caller.
pub(crate) trait Caller: Clone + Send + Sync + 'static {
    /// Calls, and waits for the answer.
    fn call(&mut self, payload: Bytes) -> impl Future<Output = Outcome<Bytes>> + Send;
}

/// Runs callers, one for each message in flight, which call again as soon as they have their
/// answer. Must run as a task of the executor of the library's tasks: otherwise each answer has to
/// wake another thread.
pub(crate) async fn callers(load: Load, caller: impl Caller) -> Outcome<Turn> {
    let start = Instant::now();
    let load = &load;
    let run = |place: usize| {
        let mut caller = caller.clone();
        async move {
            let mut trips = Vec::new();
            while trips.is_empty() || start.elapsed() < load.time {
                let sent = Instant::now();
                let answer = caller.call(load.payloads[place].clone()).await?;
                trips.push(sent.elapsed());
                load.verify(place, &answer);
            }
            Outcome::Ok(trips)
        }
    };
    let trips = try_join_all((0..load.in_flight()).map(run)).await?;
    Ok(Turn::new(trips.concat(), start.elapsed()))
}
