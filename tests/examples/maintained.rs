//! A server that takes itself out of service and back: `maintained.off`, and `on` by its endpoint.
//! Only for tests.

use palm_peer::{FunctionError, Message, Peer, Server, flags::Run};
use std::{
    process::ExitCode,
    sync::{Arc, OnceLock},
};

/// a server that is out of service for a while
#[derive(argh::FromArgs)]
struct Maintained {
    #[argh(subcommand)]
    command: Command,
}

#[derive(argh::FromArgs)]
#[argh(subcommand)]
enum Command {
    Run(Run),
}

fn main() -> ExitCode {
    let Maintained {
        command: Command::Run(run),
    } = argh::from_env();
    match palm_peer::block_on(serve(run)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(run: Run) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    palm_peer::logging::init(run.log_level()?, palm_peer::logging::LogFormat::from_env()?)?;
    let own: Arc<OnceLock<Peer>> = Arc::default();
    let switch = |ready: bool| {
        let own = Arc::clone(&own);
        move |_: Message| {
            if let Some(peer) = own.get() {
                peer.set_ready(ready);
            }
            async { Ok::<_, FunctionError>("done") }
        }
    };
    let server = Server::new("maintained")
        .version("1.4.2")
        .tag("gpu")
        .function("off", switch(false))
        .function("on", switch(true));
    let peer = server.join(run.config()?).await?;
    Ok(own
        .get_or_init(|| peer)
        .serve(palm_peer::signals()?)
        .await?)
}
