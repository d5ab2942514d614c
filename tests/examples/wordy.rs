//! A server with as many functions as `WORDY_FUNCTIONS` says, each with a name of 128 characters.
//!
//! For tests: the length of a record is bounded.

use palm_peer::{FunctionError, Message, Server, flags::Run};
use std::process::ExitCode;

/// a server with many functions
#[derive(argh::FromArgs)]
struct Wordy {
    #[argh(subcommand)]
    run: Run,
}

async fn echo(message: Message) -> Result<palm_peer::Bytes, FunctionError> {
    Ok(message.into_payload())
}

fn main() -> ExitCode {
    let wordy: Wordy = argh::from_env();
    let count = std::env::var("WORDY_FUNCTIONS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(1);
    let server = (0..count).fold(Server::new("wordy"), |server, n| {
        server.function(format!("f{n:0>127}"), echo)
    });
    wordy.run.main(server)
}
