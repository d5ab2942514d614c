//! `palm-cli metrics`: what the servers of the mesh count, for Prometheus.

mod merge;

use self::merge::Merged;
use crate::{
    args::Metrics,
    error::{CliError, warn},
    find::{askable, find, matching, selected},
    screen::Screen,
};
use futures::{FutureExt as _, StreamExt as _, stream};
use palm_peer::{Admin, Bytes, CallErrorKind, Client, Config, ServerEntry};
use std::time::Duration;

/// How long a server may take to answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// How many servers are asked at once.
const AT_ONCE: usize = 64;

/// Runs the command.
pub(crate) async fn run(
    metrics: &Metrics,
    config: Config,
    screen: &mut Screen,
) -> Result<(), CliError> {
    let admin = Admin::connect(config.clone()).await?;
    let client = Client::connect(config).await?;
    let all = admin.servers().await?;
    let chosen = selected(&all, metrics.server.as_deref());
    if let Some(wanted) = &metrics.server
        && matching(&all, wanted).is_empty()
    {
        // The error says what there is.
        find(&all, wanted)?;
    }
    let (mut merged, mut answered) = (Merged::default(), Vec::new());
    let entries = chosen.into_iter();
    let known = entries.filter_map(|entry| Some((entry, entry.record.as_ref().ok()?)));
    // One that is out of service cannot be called, which is as it should be.
    let known = known.filter(|(_, record)| record.is_ready());
    let mut asking = stream::iter(known)
        .map(|(entry, record)| {
            let client = &client;
            async move { (record, ask(entry, client).await) }.boxed_local()
        })
        .buffered(AT_ONCE);
    while let Some((record, answer)) = asking.next().await {
        let uuid = record.uuid.to_string();
        let added = answer.and_then(|answer| match answer {
            None => Ok(()),
            Some(text) => std::str::from_utf8(&text)
                .map_err(|_| "its metrics are not UTF-8".to_owned())
                .and_then(|text| merged.add(text, &uuid)),
        });
        if let Err(reason) = &added {
            warn(&format!("server {uuid} ({}): {reason}", record.server));
        }
        answered.push(format!(
            "palm_server_answered{{uuid=\"{uuid}\",server=\"{}\"}} {}",
            record.server,
            u8::from(added.is_ok())
        ));
    }
    drop(asking);
    let help = "Whether a registered server answered, when palm-cli asked for its metrics.";
    merged.add_gauge("palm_server_answered", help, answered);
    for line in merged.lines() {
        screen.line(line)?;
    }
    Ok(())
}

/// Asks a server for its metrics; `None` if it has none, as the Python stage.
async fn ask(entry: &ServerEntry, client: &Client) -> Result<Option<Bytes>, String> {
    let Some(record) = askable(entry) else {
        return Err("it is not configured, and cannot be called yet".to_owned());
    };
    let call = client
        .call(format!("{}._metrics", entry.name), "")
        .at(record);
    match call.timeout(ANSWERED_WITHIN).await {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == CallErrorKind::NoSuchFunction => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
