//! The `printf` server of docs/pylm-compatibility.md: logs its message and returns it.
//!
//! `cargo run --example printf -- run --etcd http://127.0.0.1:2379`

use palm_peer::{Bytes, FunctionError, Message, Server};
use std::process::ExitCode;

async fn printf(message: Message) -> Result<Bytes, FunctionError> {
    let words = String::from_utf8_lossy(message.payload());
    log::info!("{words}");
    Ok(message.into_payload())
}

fn main() -> ExitCode {
    palm_peer::main(Server::new("printf").function("printf", printf))
}
