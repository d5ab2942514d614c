//! One stage of a pipeline: a server of the name in `PALM_TEST_STAGE`, which adds that name to what comes through.

use palm_peer::{FunctionError, Message, Server, flags::Run};
use std::process::ExitCode;

/// adds its name
#[derive(argh::FromArgs)]
struct Stage {
    #[argh(subcommand)]
    command: Command,
}

#[derive(argh::FromArgs)]
#[argh(subcommand)]
enum Command {
    Run(Run),
}

fn main() -> ExitCode {
    let Stage { command: Command::Run(run) } = argh::from_env();
    let name = std::env::var("PALM_TEST_STAGE").unwrap_or_else(|_| "a".into());
    let suffix = name.clone();
    run.main(Server::new(name).function("add", move |message: Message| {
        let suffix = suffix.clone();
        async move { Ok::<_, FunctionError>([message.payload(), suffix.as_bytes()].concat()) }
    }))
}
