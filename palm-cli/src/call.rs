//! `palm-cli call`: calls a function.

mod all;

use crate::{args::Call, error::CliError, meta, screen::Screen};
use palm_peer::{Answer, Bytes, CallError, Client, Config};
use std::io::{self, Read as _};

/// Runs the command.
pub(crate) async fn run(call: &Call, config: Config, screen: &mut Screen) -> Result<(), CliError> {
    let payload = match call.payload.as_deref() {
        Some("-") => standard_input(config.max_payload)?,
        Some(payload) => payload.as_bytes().to_owned(),
        None => Vec::new(),
    };
    if call.all {
        return all::run(call, payload, config, screen).await;
    }
    let client = Client::connect(config).await?;
    let answer = send(&client, call, &call.target, payload.into()).await?;
    screen.raw(&answer)?;
    if call.show_meta {
        screen.flush()?;
        meta::show("", answer.meta());
    }
    // Without a line end, the shell's prompt would follow the answer. A program gets
    // the exact bytes.
    if screen.terminal && !answer.is_empty() {
        Ok(screen.end_line(&answer)?)
    } else {
        Ok(())
    }
}

/// Calls a target with the options of the command line.
async fn send(
    client: &Client,
    call: &Call,
    target: &str,
    payload: Bytes,
) -> Result<Answer, CallError> {
    let mut calling = client.call(target, payload);
    if let Some(key) = &call.cache {
        calling = calling.cache(key);
    }
    for entry in &call.meta {
        calling = calling.meta(&entry.name, &entry.value);
    }
    calling.answer().await
}

/// Reads standard input, at most one byte more than can be sent: then the call is refused.
fn standard_input(max: usize) -> Result<Vec<u8>, CliError> {
    let mut payload = Vec::new();
    let max = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let read = io::stdin().lock().take(max).read_to_end(&mut payload);
    read.map_err(|error| CliError::CouldNot(format!("cannot read standard input: {error}")))?;
    Ok(payload)
}
