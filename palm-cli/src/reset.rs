//! `palm-cli reset`: clears all keys of the mesh.

use crate::{args::Reset, error::CliError, find::describe, screen::Screen, table::counted};
use palm_peer::{Admin, Config, ServerEntry};
use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// When no server has re-registered for this long, the others are reported as missing: running
/// servers return within seconds, in a large mesh one after the other.
const QUIET: Duration = Duration::from_secs(5);
/// How long to wait for the servers to re-register, at most.
const BACK_WITHIN: Duration = Duration::from_secs(300);

/// Runs the command.
pub(crate) async fn run(
    reset: &Reset,
    config: Config,
    screen: &mut Screen,
) -> Result<(), CliError> {
    let asks = !reset.yes;
    if asks && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(CliError::Usage(
            "reset asks for confirmation on a terminal; without one, pass --yes".to_owned(),
        ));
    }
    let place = format!("{} {}", config.etcd.join(","), config.prefix);
    let admin = Admin::connect(config).await?;
    if asks {
        let servers = counted(admin.servers().await?.len(), "server");
        confirm(&format!(
            "Delete all keys of the mesh in etcd at {}, with {servers}?",
            place.trim_end()
        ))?;
    }
    let mut cleared = admin.reset().await?;
    let broken = cleared
        .removed()
        .iter()
        .filter(|entry| entry.record.is_err())
        .count();
    let servers = cleared.removed().len() - broken;
    let and_broken = if broken == 0 {
        String::new()
    } else {
        format!(" and {}", counted(broken, "broken record"))
    };
    screen.line(&format!(
        "Cleared the mesh of {}{and_broken}",
        counted(servers, "server")
    ))?;
    if !cleared.is_marked() {
        screen.flush()?;
        return Err(CliError::CouldNot(
            "etcd is out of space: the keys are deleted, but the reset could not be recorded and no server can register; \
             the servers register by themselves once etcd has space: compact, defragment and disarm the alarm, as \
             docs/operations.md says"
                .to_owned(),
        ));
    }
    if reset.no_wait || servers == 0 {
        return Ok(());
    }
    screen.flush()?;
    let began = Instant::now();
    let missing = cleared.missing_after(QUIET, BACK_WITHIN).await;
    let (back, waited) = (servers - missing.len(), began.elapsed());
    screen.line(&format!(
        "{back} of {} came back within {}",
        counted(servers, "server"),
        within(waited, &missing)
    ))?;
    for entry in missing {
        screen.line(&format!("  missing: {}", describe(entry)))?;
    }
    Ok(())
}

/// Returns the text on how long the servers took to re-register, and, if some are missing, that
/// no more followed.
fn within(waited: Duration, missing: &[&ServerEntry]) -> String {
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    if missing.is_empty() || waited >= BACK_WITHIN {
        return seconds(waited.min(BACK_WITHIN));
    }
    format!(
        "{}, and none within the {} after that",
        seconds(waited.saturating_sub(QUIET)),
        seconds(QUIET)
    )
}

/// Asks for confirmation. An error unless the answer is yes.
fn confirm(question: &str) -> Result<(), CliError> {
    let mut answer = String::new();
    let asked = write!(io::stderr(), "{question} [y/N] ")
        .and_then(|()| io::stdin().lock().read_line(&mut answer));
    match asked {
        Ok(_) if is_yes(&answer) => Ok(()),
        Ok(_) => Err(CliError::CouldNot("nothing was changed".to_owned())),
        Err(error) => Err(CliError::CouldNot(format!(
            "nothing was changed: the answer cannot be read: {error}"
        ))),
    }
}

/// Returns whether the answer is a clear yes.
fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_confirms() {
        for (answer, yes) in [
            ("y\n", true),
            (" YES \r\n", true),
            ("", false),
            ("\n", false),
            ("yep\n", false),
            ("n", false),
        ] {
            assert_eq!(is_yes(answer), yes, "{answer:?}");
        }
    }
}
