//! The `printf` server of docs/pylm-compatibility.md under smol: the same code as
//! under any executor.
//!
//! `cargo run --example printf_smol`, with etcd's URLs in `PALM_ETCD`

use palm_peer::{
    Bytes, Config, FunctionError, Message, Server,
    logging::{self, LogFormat},
};
use std::error::Error;

async fn printf(message: Message) -> Result<Bytes, FunctionError> {
    log::info!("{}", String::from_utf8_lossy(message.payload()));
    Ok(message.into_payload())
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let shutdown = palm_peer::signals()?;
    let server = Server::new("printf").function("printf", printf);
    Ok(server.run(Config::from_env()?, shutdown).await?)
}

fn main() -> Result<(), Box<dyn Error>> {
    logging::init(log::LevelFilter::Info, LogFormat::from_env()?)?;
    smol::block_on(serve())
}
