//! A second server for a mesh, with two small functions on text.
//!
//! `cargo run --example text -- run --etcd http://127.0.0.1:2379`

use palm_peer::{FunctionError, Message, Server, flags::Run};
use std::process::ExitCode;

/// a server that shouts, and counts words
#[derive(argh::FromArgs)]
struct Text {
    #[argh(subcommand)]
    command: Command,
}

#[derive(argh::FromArgs)]
#[argh(subcommand)]
enum Command {
    Run(Run),
}

async fn shout(message: Message) -> Result<String, FunctionError> {
    Ok(std::str::from_utf8(message.payload())?.to_uppercase())
}

/// Added as blocking, because a long text would block the executor.
fn count(message: Message) -> Result<String, FunctionError> {
    Ok(std::str::from_utf8(message.payload())?
        .split_whitespace()
        .count()
        .to_string())
}

fn main() -> ExitCode {
    let Text {
        command: Command::Run(run),
    } = match palm_peer::flags::from_env() {
        Ok(text) => text,
        Err(exit) => return exit,
    };
    run.main(
        Server::new("text")
            .function("shout", shout)
            .blocking("count", count),
    )
}
