//! The table of jobs: messages through one, two and three servers, compared with echoes and with
//! a server of pylm.

use crate::{
    Outcome,
    arguments::Arguments,
    measure::{Load, Row, Rows, Turn},
    palm::Mesh,
    python::Python,
    raw_zeromq::RawZeromq,
    report::{Aim, Table, Wanted, figure, ratio},
};

const STAGES: [usize; 3] = [1, 2, 3];
const SIZES: [usize; 3] = [100, 10_000, 1_000_000];
/// The default window of a job.
const WINDOW: usize = 1024;
const WINDOW_BYTES: usize = 64 * 1024 * 1024;

/// Measures and prints one table for each size. Returns the result for the aim.
pub(crate) fn bench(wanted: &Arguments, mesh: Option<&Mesh>) -> Outcome<Vec<Aim>> {
    let mut aims = Vec::new();
    for size in wanted.number_or(1, &SIZES) {
        let in_flight = WINDOW.min(WINDOW_BYTES / size.max(1)).max(1);
        let mut rows = rows(wanted, mesh, size);
        rows.measure(&Load::new(in_flight, size, wanted.time))?;
        print(size, in_flight, &rows);
        aims.extend(aims_of(size, &rows));
    }
    Ok(aims)
}

fn aims_of(size: usize, rows: &Rows) -> Vec<Aim> {
    let aim = |palm: &str, stages: &str, over: &str, wanted: f64| {
        let reached = |palm: &Row| Some(palm.over(rows.named(over)?, per_second));
        let what = format!("messages/s through {stages}, {}", bytes(size));
        let wanted = Wanted::AtLeast(wanted);
        rows.named(palm)
            .map(|palm| Aim::new(&what, over, reached(palm), wanted))
    };
    let (one, three, zeromq) = ("PALM, 1 stage", "PALM, 3 stages", "zeromq, echo");
    let aims = match size {
        100 => vec![
            aim(one, "1 stage", zeromq, 0.6),
            aim(three, "3 stages", zeromq, 0.5),
            aim(three, "3 stages", "pylm", 12.0),
        ],
        10_000 => vec![aim(one, "1 stage", zeromq, 0.8)],
        1_000_000 => vec![aim(one, "1 stage", zeromq, 1.1)],
        _ => Vec::new(),
    };
    aims.into_iter().flatten().collect()
}

fn rows<'a>(wanted: &'a Arguments, mesh: Option<&Mesh>, size: usize) -> Rows<'a> {
    let mut rows = Rows::new(wanted);
    let alone = |stages: usize, subject: &str| format!("jobs {stages} {size} {subject}");
    if let Some(mesh) = mesh {
        for stages in wanted.number_or(0, &STAGES) {
            let name = format!("PALM, {stages} stage{}", if stages == 1 { "" } else { "s" });
            rows.add(&name, alone(stages, "palm"), || mesh.jobs(stages));
        }
    }
    rows.add("zeromq, echo", alone(1, "zeromq"), RawZeromq::start);
    rows.add("pyzmq, echo", alone(1, "pyzmq"), Python::pyzmq);
    rows.add("pylm", alone(1, "pylm"), Python::pylm);
    rows
}

fn per_second(turn: &Turn) -> f64 {
    turn.per_second
}

fn print(size: usize, in_flight: usize, rows: &Rows) {
    let (one, three) = (rows.named("PALM, 1 stage"), rows.named("PALM, 3 stages"));
    let columns = [
        "messages/s",
        "MB/s",
        "CPU, µs",
        "load",
        "PALM's 1 stage / it",
        "PALM's 3 stages / it",
        "alone",
    ];
    let title = format!("Jobs, {}, {in_flight} in flight", bytes(size));
    let mut table = Table::new(&title, "subject", &columns);
    for row in rows.iter() {
        let rate = row.median(per_second);
        let over = |palm: Option<&Row>| ratio(palm.map(|palm| palm.over(row, per_second)));
        table.line([
            row.name.clone(),
            figure(rate),
            figure(rate * f64::from(u32::try_from(size).unwrap_or(u32::MAX)) / 1e6),
            figure(row.median(|turn| turn.cpu)),
            figure(row.median(|turn| turn.load)),
            over(one),
            over(three),
            format!("`{}`", row.alone),
        ]);
    }
    table.print(rows.skipped());
}

fn bytes(size: usize) -> String {
    match size {
        1_000_000.. => format!("{} MB", size / 1_000_000),
        1000.. => format!("{} kB", size / 1000),
        _ => format!("{size} B"),
    }
}
