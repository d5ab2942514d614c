//! The `printf` server of docs/pylm-compatibility.md: logs its message and returns it.
//!
//! `cargo run --example printf -- run --etcd http://127.0.0.1:2379`

use palm_peer::{Bytes, FunctionError, Message, Server, flags::Run};
use std::process::ExitCode;

/// a server that logs what it is sent, and sends it back
#[derive(argh::FromArgs)]
struct Printf {
    #[argh(subcommand)]
    command: Command,
}

#[derive(argh::FromArgs)]
#[argh(subcommand)]
enum Command {
    Run(Run),
}

async fn printf(message: Message) -> Result<Bytes, FunctionError> {
    let words = String::from_utf8_lossy(message.payload());
    log::info!("{words}");
    Ok(message.into_payload())
}

fn main() -> ExitCode {
    let Printf { command: Command::Run(run) } = argh::from_env();
    run.main(Server::new("printf").function("printf", printf))
}
