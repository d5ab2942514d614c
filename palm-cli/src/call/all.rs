//! `palm-cli call --all`: calls a function on every instance of a server.

use crate::{
    args::Call,
    error::{CliError, warn},
    find::{describe, named},
    screen::Screen,
    table::counted,
};
use futures::{StreamExt as _, stream};
use palm_peer::{Admin, Bytes, Client, Config, ServerStatus};

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
    instances
        .retain(|entry| matches!(entry.state, ServerStatus::Leader | ServerStatus::Configured));
    if instances.is_empty() {
        // The error of a single call says what there is.
        let answer = client.call(&call.target, payload).await?;
        return Ok(screen.line(&line(server, &answer))?);
    }
    let count = instances.len();
    let mut answers = stream::iter(instances)
        .map(|entry| {
            let mut calling = client.call(format!("{}.{function}", entry.name), payload.clone());
            if let Some(key) = &call.cache {
                calling = calling.cache(key);
            }
            async move { (entry, calling.await) }
        })
        .buffer_unordered(AT_ONCE);
    let mut failed = 0;
    while let Some((entry, answer)) = answers.next().await {
        match answer {
            Ok(answer) => {
                screen.line(&line(&entry.name, &answer))?;
                screen.flush()?;
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
    let mut line = format!("{instance}\t");
    for c in String::from_utf8_lossy(answer).chars() {
        if c.is_control() || c == '\\' {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_line() {
        assert_eq!(
            line("id", "a\tb\nc\\d é\u{1b}".as_bytes()),
            "id\ta\\tb\\nc\\\\d é\\u{1b}"
        );
    }
}
