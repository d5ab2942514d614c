//! `palm-cli call --all`: calls a function on every instance of a server.

use super::send;
use crate::{
    args::Call,
    error::{CliError, warn},
    find::{describe, named},
    meta::{self, one_line},
    screen::Screen,
    table::counted,
};
use futures::{StreamExt as _, stream};
use palm_peer::{Admin, Bytes, Client, Config, Record, ServerStatus};

/// How many instances are called at once.
const AT_ONCE: usize = 64;

/// Calls all instances, and prints a line for each answer as it comes.
pub(super) async fn run(
    call: &Call,
    payload: Vec<u8>,
    config: Config,
    screen: &mut Screen,
) -> Result<(), CliError> {
    let admin = Admin::connect(config.clone()).await?;
    let client = Client::connect(config).await?;
    let payload = Bytes::from(payload);
    let (server, function) = call.target.split_once('.').unwrap_or((&call.target, ""));
    let entries = admin.servers().await?;
    let mut instances = named(&entries, server);
    instances.retain(|entry| {
        let is_ready = entry.record.as_ref().is_ok_and(Record::is_ready);
        is_ready && matches!(entry.state, ServerStatus::Leader | ServerStatus::Configured)
    });
    if instances.is_empty() {
        // The error of a single call says what there is.
        let answer = send(&client, call, &call.target, payload).await?;
        return Ok(screen.line(&line(server, &answer))?);
    }
    let count = instances.len();
    let mut answers = stream::iter(instances)
        .map(|entry| {
            let target = format!("{}.{function}", entry.name);
            let (client, payload) = (&client, payload.clone());
            async move { (entry, send(client, call, &target, payload).await) }
        })
        .buffer_unordered(AT_ONCE);
    let mut failed = 0;
    while let Some((entry, answer)) = answers.next().await {
        match answer {
            Ok(answer) => {
                screen.line(&line(&entry.name, &answer))?;
                screen.flush()?;
                if call.show_meta {
                    meta::show(&format!("{}\t", entry.name), answer.meta());
                }
            }
            Err(error) => {
                failed += 1;
                warn(&format!("{}: {error}", describe(entry)));
            }
        }
    }
    if failed == 0 {
        return Ok(());
    }
    Err(CliError::CouldNot(format!(
        "{failed} of {} failed",
        counted(count, "call")
    )))
}

/// Returns an answer as one line: the instance, a tab, and the text with control characters
/// and backslashes escaped.
fn line(instance: &str, answer: &[u8]) -> String {
    format!("{instance}\t{}", one_line(&String::from_utf8_lossy(answer)))
}
