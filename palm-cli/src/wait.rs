//! `palm-cli wait`: waits until servers can be called.

use crate::{args::Wait, error::CliError, screen::Screen, suggest::did_you_mean, table::counted};
use palm_peer::{Client, Config, ServerSummary};
use std::time::{Duration, Instant};

/// So many instances of a server.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    server: &'a str,
    instances: usize,
}

impl<'a> Wanted<'a> {
    /// Reads `text=2`; one instance without a number.
    fn read(text: &'a str) -> Result<Self, CliError> {
        let (server, number) = text.split_once('=').unwrap_or((text, "1"));
        match number.trim().parse() {
            Ok(instances) if instances > 0 && !server.is_empty() => Ok(Self { server, instances }),
            _ => Err(CliError::Usage(format!(
                "{text:?} is not a server with a number of instances, such as text=2"
            ))),
        }
    }

    /// Returns how many instances there are.
    fn found(&self, reachable: &[ServerSummary]) -> usize {
        let server = reachable.iter().find(|found| found.server == self.server);
        server.map_or(0, |found| found.instances)
    }
}

/// Runs the command.
pub(crate) async fn run(wait: &Wait, config: Config, screen: &mut Screen) -> Result<(), CliError> {
    let wanted = wait.servers.iter().map(|text| Wanted::read(text));
    let wanted: Vec<_> = wanted.collect::<Result<_, _>>()?;
    let within = config.timeout;
    let deadline = Instant::now() + within;
    let client = Client::connect(config).await?;
    loop {
        let reachable = client.reachable();
        let is_there = |wanted: &&Wanted| wanted.found(&reachable) >= wanted.instances;
        let Some(missing) = wanted.iter().find(|wanted| !is_there(wanted)) else {
            for wanted in &wanted {
                screen.line(&format!("{}={}", wanted.server, wanted.found(&reachable)))?;
            }
            return Ok(());
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let missing = wanted.iter().filter(|wanted| !is_there(wanted));
            return Err(missing_after(within, missing, &reachable));
        }
        // Its error names one server alone.
        let _ = client
            .wait_for(missing.server, missing.instances, left)
            .await;
    }
}

/// Returns the error that lists what is missing.
fn missing_after<'a>(
    within: Duration,
    missing: impl Iterator<Item = &'a Wanted<'a>>,
    reachable: &[ServerSummary],
) -> CliError {
    let missing = missing.map(|wanted| {
        let found = wanted.found(reachable);
        let similar = if found == 0 {
            let names = reachable.iter().map(|server| server.server.as_str());
            did_you_mean(wanted.server, names)
        } else {
            String::new()
        };
        format!(
            "{}{similar} has {found} of {}",
            wanted.server,
            counted(wanted.instances, "instance")
        )
    });
    let missing: Vec<_> = missing.collect();
    CliError::CouldNot(format!("after {within:?}, {}", missing.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_a_number_of_instances() {
        for (text, wanted) in [
            ("text", Some(("text", 1))),
            ("text=2", Some(("text", 2))),
            ("text=0", None),
            ("text=", None),
            ("text=many", None),
            ("=2", None),
            ("text=-1", None),
        ] {
            let read = Wanted::read(text).ok();
            let read = read.map(|read| (read.server, read.instances));
            assert_eq!(read, wanted, "{text}");
        }
    }
}
