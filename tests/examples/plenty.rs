//! A server that answers with a requested number of bytes: `plenty.bytes`, with the number as
//! payload; and with the length of a payload: `plenty.length`.
//!
//! For tests: each answer is allocated separately.

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

async fn length(message: Message) -> Result<String, FunctionError> {
    Ok(message.payload().len().to_string())
}

fn main() -> ExitCode {
    let plenty: Plenty = argh::from_env();
    plenty.run.main(
        Server::new("plenty")
            .function("bytes", bytes)
            .function("length", length),
    )
}
