//! `palm-cli job`: streams messages through functions.

mod bar;
mod input;

use self::{bar::Bar, input::Input};
use crate::{
    args,
    error::{CliError, warn},
    screen::{Screen, reader_gone},
};
use futures::{
    StreamExt as _,
    future::{Either, select},
};
use palm_peer::{Bytes, Client, Config, JobError};
use std::io;

/// The maximum number of bytes in flight: the library's default.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// How many results are printed together, if that many are available.
const TOGETHER: usize = 256;

/// A message that ended, with its number.
type Ended = (u64, Result<Bytes, JobError>);

/// Runs the command.
pub(crate) async fn run(
    args: &args::Job,
    config: Config,
    screen: &mut Screen,
) -> Result<(), CliError> {
    let delimiter = if args.null { b'\0' } else { b'\n' };
    let max = config.max_payload;
    let client = Client::connect(config).await?;
    let pipeline = args.pipeline.split(',').map(str::trim);
    let mut job = client
        .job(pipeline)
        .window(args.window.get(), MAX_BYTES)
        .attempts(args.attempts.get());
    if args.unordered {
        job = job.unordered();
    }
    for entry in &args.meta {
        job = job.meta(&entry.name, &entry.value);
    }
    let (input, messages) = Input::standard(delimiter, max);
    // Unknown functions are reported here, before any input is read.
    let results = job.run(messages)?;
    let progress = results.progress();
    let bar = Bar::new(&progress);
    let reading = input.start(bar.read());

    let mut results = results.ready_chunks(TOGETHER);
    let mut gone = reader_gone();
    loop {
        let ended = match select(results.next(), &mut gone).await {
            Either::Left((Some(ended), _)) => ended,
            Either::Left((None, _)) => break,
            Either::Right(_) => return Err(CliError::Unread),
        };
        bar.aside(screen.terminal, &ended, || show(&ended, delimiter, screen))?;
    }
    bar.finish();
    reading.ended()?;
    match progress.failed() {
        0 => Ok(()),
        failed => Err(CliError::CouldNot(format!(
            "{failed} of {} failed",
            messages_of(progress.sent())
        ))),
    }
}

/// Prints results to stdout and errors to stderr.
fn show(ended: &[Ended], delimiter: u8, screen: &mut Screen) -> io::Result<()> {
    for (idx, result) in ended {
        match result {
            Ok(payload) => {
                screen.raw(payload)?;
                screen.raw(&[delimiter])?;
            }
            Err(error) => warn(&format!("message {idx}: {error}")),
        }
    }
    screen.flush()
}

fn messages_of(count: u64) -> String {
    if count == 1 {
        "1 message".to_owned()
    } else {
        format!("{count} messages")
    }
}
