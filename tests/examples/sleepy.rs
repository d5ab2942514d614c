//! A server that can be made to block the executor of its functions: `sleepy.block`, with seconds
//! as payload; or to take long without: `sleepy.wait`; or to keep a thread of the pool for blocking
//! functions: `sleepy.hold`. `sleepy.ask` calls `printf`.
//!
//! Only for tests: asynchronous functions must not block.

use palm_peer::{Bytes, FunctionError, Message, Server, flags::Run};
use std::{process::ExitCode, thread, time::Duration};

/// a server that falls asleep when it is told to
#[derive(argh::FromArgs)]
struct Sleepy {
    #[argh(subcommand)]
    run: Run,
}

async fn block(message: Message) -> Result<&'static str, FunctionError> {
    let seconds: f64 = std::str::from_utf8(message.payload())?.parse()?;
    thread::sleep(Duration::try_from_secs_f64(seconds)?);
    Ok("awake")
}

async fn wait(message: Message) -> Result<&'static str, FunctionError> {
    let seconds: f64 = std::str::from_utf8(message.payload())?.parse()?;
    log::info!("waiting");
    async_std::task::sleep(Duration::try_from_secs_f64(seconds)?).await;
    Ok("waited")
}

fn hold(message: Message) -> Result<&'static str, FunctionError> {
    let seconds: f64 = std::str::from_utf8(message.payload())?.parse()?;
    thread::sleep(Duration::try_from_secs_f64(seconds)?);
    Ok("held")
}

async fn ask(message: Message) -> Result<Bytes, FunctionError> {
    Ok(message
        .call("printf.printf", message.payload().clone())
        .await?)
}

fn main() -> ExitCode {
    let sleepy: Sleepy = argh::from_env();
    let server = Server::new("sleepy")
        .function("block", block)
        .function("wait", wait);
    sleepy
        .run
        .main(server.blocking("hold", hold).function("ask", ask))
}
