//! A server that answers as many bytes as it is asked for: `plenty.bytes`, with their number as payload.
//!
//! For tests: each answer is memory of its own.

use palm_peer::{FunctionError, Message, Server, flags::Run};
use std::process::ExitCode;

/// a server that gives plenty
#[derive(argh::FromArgs)]
struct Plenty {
    #[argh(subcommand)]
    run: Run,
}

async fn bytes(message: Message) -> Result<Vec<u8>, FunctionError> {
    let count: usize = std::str::from_utf8(message.payload())?.parse()?;
    Ok(vec![b'x'; count])
}

fn main() -> ExitCode {
    let plenty: Plenty = argh::from_env();
    plenty.run.main(Server::new("plenty").function("bytes", bytes))
}
