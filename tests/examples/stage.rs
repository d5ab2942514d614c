//! One stage of a pipeline, for tests: a server of the name in `PALM_TEST_STAGE`.
//!
//! - `add` appends that name to the payload;
//! - `spin` computes for a millisecond, `wait` waits for one, `block` computes for one on a
//!   thread of the pool;
//! - `hang` never ends;
//! - `crash` ends the process when it is told to by the word `crash`.

use palm_peer::{ApplicationError, Bytes, FunctionError, Message, Server, flags::Run};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

const MOMENT: Duration = Duration::from_millis(1);

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

fn spin(message: Message) -> Bytes {
    let start = Instant::now();
    while start.elapsed() < MOMENT {
        std::hint::spin_loop();
    }
    message.into_payload()
}

async fn wait(message: Message) -> Result<Bytes, FunctionError> {
    smol::Timer::after(MOMENT).await;
    Ok(message.into_payload())
}

async fn hang(_: Message) -> Result<Bytes, FunctionError> {
    std::future::pending().await
}

async fn refuse(item: String) -> Result<Bytes, FunctionError> {
    let error = ApplicationError::new("no_item", format!("there is no {item}"));
    let data = serde_json::json!({"asked": item, "near": ["nut", 1]});
    Err(error.with_data(data).into())
}

async fn crash(message: Message) -> Result<Bytes, FunctionError> {
    if message.payload() == "crash" {
        std::process::abort();
    }
    Ok(message.into_payload())
}

fn main() -> ExitCode {
    let Stage {
        command: Command::Run(run),
    } = argh::from_env();
    let name = std::env::var("PALM_TEST_STAGE").unwrap_or_else(|_| "a".into());
    let suffix = name.clone();
    let add = move |message: Message| {
        let suffix = suffix.clone();
        async move { Ok::<_, FunctionError>([message.payload(), suffix.as_bytes()].concat()) }
    };
    let server = Server::new(name)
        .function("add", add)
        .function("wait", wait)
        .function("hang", hang);
    let server = server
        .function("crash", crash)
        .function("refuse", refuse)
        .function("spin", async |message: Message| {
            Ok::<_, FunctionError>(spin(message))
        });
    run.main(server.blocking("block", |message: Message| {
        Ok::<_, FunctionError>(spin(message))
    }))
}
