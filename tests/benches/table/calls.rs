//! The tables of calls: 100 bytes there and back.

use crate::{
    Outcome,
    arguments::Arguments,
    grpc::Tonic,
    measure::{Load, Row, Rows, Turn},
    nats::Nats,
    palm::Mesh,
    python::Python,
    raw_tcp::RawTcp,
    raw_zeromq::RawZeromq,
    report::{Aim, Table, Wanted, figure, ratio},
};

const PAYLOAD: usize = 100;
const IN_FLIGHT: [usize; 2] = [1, 256];
/// With fewer calls in flight, not each of several clients would have one.
const MANY: usize = 16;
const CLIENTS: [usize; 3] = [1, 4, 16];
const INSTANCES: [usize; 3] = [1, 32, 1000];

/// Measures and prints one table for each number of calls in flight. Returns the
/// results for the aims.
pub(crate) fn bench(wanted: &Arguments, mesh: Option<&Mesh>) -> Outcome<Vec<Aim>> {
    let mut aims = Vec::new();
    for in_flight in wanted.number_or(0, &IN_FLIGHT) {
        let mut rows = rows(wanted, mesh, in_flight);
        let load = Load::new(in_flight, PAYLOAD, wanted.time);
        rows.measure(&load)?;
        if rows.iter().next().is_some() {
            let title = format!("Calls, {PAYLOAD} B, {in_flight} in flight");
            print(&title, &rows, rows.named("PALM"));
            aims.extend(aims_of(in_flight, &rows));
        }
        if in_flight >= MANY {
            by_clients(wanted, &load)?;
            by_instances(wanted, &load)?;
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
    rows.add("TCP", alone("tcp"), RawTcp::start);
    rows.add("zeromq", alone("zeromq"), RawZeromq::start);
    rows.add("pyzmq", alone("pyzmq"), Python::pyzmq);
    rows.add("tonic", alone("tonic"), Tonic::start);
    rows.add("NATS", alone("nats"), Nats::start);
    rows
}

fn aims_of(in_flight: usize, rows: &Rows) -> Vec<Aim> {
    let Some(palm) = rows.named("PALM") else {
        return Vec::new();
    };
    let aim = |what: &str, over: &str, of: fn(&Turn) -> f64, wanted: Wanted| {
        let reached = rows.named(over).map(|row| palm.over(row, of));
        Aim::new(what, over, reached, wanted)
    };
    match in_flight {
        1 => {
            let p50_over = |over, most| aim("p50 of a call", over, p50, Wanted::AtMost(most));
            vec![
                p50_over("NATS", 0.45),
                p50_over("zeromq", 1.05),
                p50_over("TCP", 1.3),
            ]
        }
        256 => {
            let what = "calls/s, 256 in flight";
            let rate_over = |over, least| aim(what, over, per_second, Wanted::AtLeast(least));
            let elsewhere = rows.named("PALM, elsewhere");
            let reached = elsewhere.map(|elsewhere| elsewhere.over(palm, per_second));
            vec![
                rate_over("NATS", 3.5),
                rate_over("tonic", 8.0),
                rate_over("zeromq", 1.5),
                rate_over("TCP", 0.2),
                Aim::new(
                    "calls/s elsewhere, 256 in flight",
                    "PALM",
                    reached,
                    Wanted::AtLeast(0.75),
                ),
            ]
        }
        _ => Vec::new(),
    }
}

/// Measures and prints what several clients of one server reach together.
fn by_clients(wanted: &Arguments, load: &Load) -> Outcome<()> {
    if !wanted.subject("clients") {
        return Ok(());
    }
    let mesh = Mesh::of_instances(1)?;
    let mut rows = Rows::new(wanted);
    for count in CLIENTS {
        let words = format!("calls {} clients", load.in_flight());
        rows.add(&counted(count, "client"), words, || {
            mesh.calls_of_clients(count)
        });
    }
    rows.measure(load)?;
    let title = format!(
        "Calls, {PAYLOAD} B, {} in flight, of several clients",
        load.in_flight()
    );
    print(&title, &rows, rows.iter().next());
    Ok(())
}

/// Measures and prints what one client reaches with several instances of a server.
fn by_instances(wanted: &Arguments, load: &Load) -> Outcome<()> {
    if !wanted.subject("instances") {
        return Ok(());
    }
    let meshes = INSTANCES.into_iter().map(Mesh::of_instances);
    let meshes: Vec<_> = meshes.collect::<Outcome<_>>()?;
    let mut rows = Rows::new(wanted);
    for (count, mesh) in INSTANCES.into_iter().zip(&meshes) {
        let words = format!("calls {} instances", load.in_flight());
        rows.add(&counted(count, "instance"), words, || Ok(mesh.calls()));
    }
    rows.measure(load)?;
    let title = format!(
        "Calls, {PAYLOAD} B, {} in flight, to several instances",
        load.in_flight()
    );
    print(&title, &rows, rows.iter().next());
    Ok(())
}

fn counted(count: usize, thing: &str) -> String {
    format!("PALM, {count} {thing}{}", if count == 1 { "" } else { "s" })
}

fn p50(turn: &Turn) -> f64 {
    turn.p50
}

fn per_second(turn: &Turn) -> f64 {
    turn.per_second
}

/// Prints a table, with the ratios of this row to all.
fn print(title: &str, rows: &Rows, palm: Option<&Row>) {
    let name = palm.map_or("PALM", |palm| &palm.name);
    let columns = [
        "p50, µs",
        "p99, µs",
        "calls/s",
        "CPU, µs",
        "load",
        &format!("{name}'s p50 / its"),
        &format!("{name}'s calls/s / its"),
        "alone",
    ];
    let mut table = Table::new(title, "subject", &columns);
    for row in rows.iter() {
        let over = |of: fn(&Turn) -> f64| ratio(palm.map(|palm| palm.over(row, of)));
        table.line([
            row.name.clone(),
            figure(row.median(p50)),
            figure(row.median(|turn| turn.p99)),
            figure(row.median(per_second)),
            figure(row.median(|turn| turn.cpu)),
            figure(row.median(|turn| turn.load)),
            over(p50),
            over(per_second),
            format!("`{}`", row.alone),
        ]);
    }
    table.print(rows.skipped());
}
