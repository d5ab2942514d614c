//! `palm-cli stats`: shows how servers are doing, by what `_ping` answers.

mod figures;
mod functions;
mod layout;
mod watch;

use self::figures::{Figures, Report};
use crate::{
    args::Stats,
    error::CliError,
    find::{askable, find, matching},
    screen::Screen,
};
use futures::{StreamExt as _, stream};
use palm_peer::{Admin, Client, Config, ServerEntry};
use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

/// How long a server may take to answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// The time over which rates are measured.
const OVER: Duration = Duration::from_secs(1);
/// How many servers are asked at once.
const AT_ONCE: usize = 64;

/// Runs the command.
pub(crate) async fn run(
    stats: &Stats,
    config: Config,
    screen: &mut Screen,
) -> Result<(), CliError> {
    let admin = Admin::connect(config.clone()).await?;
    let client = Client::connect(config).await?;
    if stats.watch && screen.movable {
        return watch::run(stats, &admin, &client, screen.color).await;
    }
    let mut before = reports(stats, &admin, &client).await?;
    loop {
        if stats.json {
            return Ok(json(&before, screen)?);
        }
        if !before.is_empty() {
            // Nothing else runs on this thread.
            thread::sleep(OVER);
        }
        let reports = reports(stats, &admin, &client).await?;
        for line in layout::lines(&figures(&before, &reports), screen.width()) {
            screen.line(&line)?;
        }
        if stats.server.is_some() {
            let lines = function_lines(&before, &reports, screen.width());
            if !lines.is_empty() {
                screen.line("")?;
            }
            for line in lines {
                screen.line(&line)?;
            }
        }
        if !stats.watch {
            return Ok(());
        }
        screen.line("")?;
        screen.flush()?;
        before = reports;
    }
}

/// Asks the servers that were chosen.
async fn reports(stats: &Stats, admin: &Admin, client: &Client) -> Result<Vec<Report>, CliError> {
    let all = admin.servers().await?;
    let chosen = match &stats.server {
        None => all.iter().collect(),
        Some(wanted) => match matching(&all, wanted)[..] {
            // The error says what there is.
            [] => vec![find(&all, wanted)?],
            ref chosen => chosen.to_vec(),
        },
    };
    Ok(ask(&chosen, client).await)
}

/// Asks these servers, except those that cannot be called yet; in the order of the entries.
async fn ask(entries: &[&ServerEntry], client: &Client) -> Vec<Report> {
    let asked = entries.iter().filter_map(|entry| askable(entry).cloned());
    let asked: Vec<_> = asked.collect();
    stream::iter(asked)
        .map(|record| async move {
            let call = client
                .call(format!("{}._ping", record.uuid), "")
                .at(&record);
            let answer = call.timeout(ANSWERED_WITHIN).await;
            Report {
                uuid: record.uuid.to_string(),
                server: record.server,
                at: Instant::now(),
                answer: answer.map_err(|error| error.to_string()),
            }
        })
        .buffered(AT_ONCE)
        .collect()
        .await
}

/// Returns the figures of each report, with the rates since the one before it.
fn figures(before: &[Report], reports: &[Report]) -> Vec<Figures> {
    let figures = reports.iter().map(|report| {
        let last = before.iter().find(|last| last.uuid == report.uuid);
        Figures::of(report, last)
    });
    figures.collect()
}

/// Returns the table of the functions of all these servers.
fn function_lines(before: &[Report], reports: &[Report], width: Option<usize>) -> Vec<String> {
    let functions = functions::functions(before, reports);
    functions::lines(&functions, SystemTime::now().into(), width)
}

/// Prints the answers as one JSON array; of a server that does not answer, why.
fn json(reports: &[Report], screen: &mut Screen) -> std::io::Result<()> {
    screen.raw(b"[")?;
    for (pos, report) in reports.iter().enumerate() {
        screen.raw(if pos == 0 { b"\n" } else { b",\n" })?;
        match report.json() {
            Ok(answer) => screen.raw(answer.to_string().as_bytes())?,
            Err(reason) => {
                let failed = serde_json::json!({
                    "uuid": report.uuid, "server": report.server, "failed": reason
                });
                screen.raw(failed.to_string().as_bytes())?;
            }
        }
    }
    screen.raw(if reports.is_empty() { b"]\n" } else { b"\n]\n" })
}
