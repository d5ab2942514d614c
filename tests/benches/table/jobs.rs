//! The table of jobs: messages through one, two and three servers, compared with echoes and with
//! a server of pylm.

use crate::{
    Outcome,
    arguments::Arguments,
    measure::{Load, Row, Rows, Turn},
    palm::Mesh,
    python::Python,
    raw_zeromq::RawZeromq,
    report::{Aim, Table, figure, ratio},
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
        // Larger payloads mostly measure the copying of bytes.
        if let (Some(palm), 100) = (rows.named("PALM, 3 stages"), size) {
            let reached = rows.named("pylm").map(|pylm| palm.over(pylm, per_second));
            let what = "messages/s through 3 stages, 100 B";
            aims.push(Aim::new(what, "pylm's one stage", reached, "5", |ratio| {
                ratio >= 5.0
            }));
        }
    }
    Ok(aims)
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
