//! The table of calls: 100 bytes there and back.

use crate::{
    Outcome,
    arguments::Arguments,
    grpc::Tonic,
    measure::{Load, Rows, Turn},
    nats::Nats,
    palm::Mesh,
    python::Python,
    raw_zeromq::RawZeromq,
    report::{Aim, Table, figure, ratio},
};

const PAYLOAD: usize = 100;
const IN_FLIGHT: [usize; 2] = [1, 256];

/// Measures and prints one table for each number of calls in flight. Returns the
/// results for the aims.
pub(crate) fn bench(wanted: &Arguments, mesh: Option<&Mesh>) -> Outcome<Vec<Aim>> {
    let mut aims = Vec::new();
    for in_flight in wanted.number_or(0, &IN_FLIGHT) {
        let mut rows = rows(wanted, mesh, in_flight);
        rows.measure(&Load::new(in_flight, PAYLOAD, wanted.time))?;
        print(in_flight, &rows);
        if let Some(palm) = rows.named("PALM") {
            let over = |name: &str, of: fn(&Turn) -> f64| Some(palm.over(rows.named(name)?, of));
            let (nats, tonic) = ("NATS", "tonic");
            let rate = "calls/s, 256 in flight";
            aims.extend(match in_flight {
                1 => vec![Aim::new(
                    "p50 of a call",
                    nats,
                    over(nats, p50),
                    "under 0.5",
                    |ratio| ratio < 0.5,
                )],
                256 => vec![
                    Aim::new(rate, nats, over(nats, per_second), "over 1", |ratio| {
                        ratio > 1.0
                    }),
                    Aim::new(rate, tonic, over(tonic, per_second), "5", |ratio| {
                        ratio >= 5.0
                    }),
                ],
                _ => Vec::new(),
            });
        }
    }
    Ok(aims)
}

fn rows<'a>(wanted: &'a Arguments, mesh: Option<&Mesh>, in_flight: usize) -> Rows<'a> {
    let mut rows = Rows::new(wanted);
    let alone = |subject: &str| format!("calls {in_flight} {subject}");
    if let Some(mesh) = mesh {
        rows.add("PALM", alone("palm"), || Ok(mesh.calls()));
        rows.add("PALM, elsewhere", alone("elsewhere"), || {
            Ok(mesh.calls_elsewhere())
        });
    }
    rows.add("zeromq", alone("zeromq"), RawZeromq::start);
    rows.add("pyzmq", alone("pyzmq"), Python::pyzmq);
    rows.add("tonic", alone("tonic"), Tonic::start);
    rows.add("NATS", alone("nats"), Nats::start);
    rows
}

fn p50(turn: &Turn) -> f64 {
    turn.p50
}

fn per_second(turn: &Turn) -> f64 {
    turn.per_second
}

fn print(in_flight: usize, rows: &Rows) {
    let palm = rows.named("PALM");
    let columns = [
        "p50, µs",
        "p99, µs",
        "calls/s",
        "CPU, µs",
        "PALM's p50 / its",
        "PALM's calls/s / its",
        "alone",
    ];
    let mut table = Table::new(
        &format!("Calls, {PAYLOAD} B, {in_flight} in flight"),
        "subject",
        &columns,
    );
    for row in rows.iter() {
        let over = |of: fn(&Turn) -> f64| ratio(palm.map(|palm| palm.over(row, of)));
        table.line([
            row.name.clone(),
            figure(row.median(p50)),
            figure(row.median(|turn| turn.p99)),
            figure(row.median(per_second)),
            figure(row.median(|turn| turn.cpu)),
            over(p50),
            over(per_second),
            format!("`{}`", row.alone),
        ]);
    }
    table.print(rows.skipped());
}
