//! A server with traces, for tests, or a client of it. The server has the name in
//! `PALM_TEST_STAGE`; both write a line of JSON into the file `PALM_TEST_SPANS` for each span that
//! ends.
//!
//! - `work` has a span of its own, on a thread of the pool;
//! - `ask` calls the function that its payload names;
//! - `fail` fails.

use futures::StreamExt as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use palm_peer::{Bytes, Client, Config, FunctionError, Message, Server, flags::Run};
use serde_json::{Map, json};
use std::{env, error::Error, fs::File, io::Write as _, process::ExitCode};
use tracing_subscriber::layer::SubscriberExt as _;

/// has traces
#[derive(argh::FromArgs)]
struct Traced {
    #[argh(subcommand)]
    command: Command,
}

#[derive(argh::FromArgs)]
#[argh(subcommand)]
// There is one in the process.
#[allow(clippy::large_enum_variant)]
enum Command {
    Run(Run),
    Ask(Ask),
}

/// sends a message through functions, as a job, or as a call if it is one alone
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "ask")]
struct Ask {
    #[argh(positional)]
    payload: String,
    #[argh(positional)]
    pipeline: Vec<String>,
}

#[derive(Debug)]
struct Lines(File);

impl SpanExporter for Lines {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        for span in batch {
            let attributes: Map<_, _> = span
                .attributes
                .iter()
                .map(|entry| (entry.key.to_string(), entry.value.to_string().into()))
                .collect();
            let line = json!({
                "name": span.name,
                "kind": format!("{:?}", span.span_kind),
                "trace": span.span_context.trace_id().to_string(),
                "span": span.span_context.span_id().to_string(),
                "parent": span.parent_span_id.to_string(),
                "attributes": attributes,
            });
            // One write: the test reads whole lines.
            let _ = (&self.0).write_all(format!("{line}\n").as_bytes());
        }
        Ok(())
    }
}

fn trace() -> Result<(), Box<dyn Error>> {
    let path = env::var("PALM_TEST_SPANS")?;
    let file = File::options().create(true).append(true).open(path)?;
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(Lines(file))
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("traced"));
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(())
}

fn work(message: Message) -> Result<Bytes, FunctionError> {
    tracing::info_span!("working").in_scope(|| Ok(message.into_payload()))
}

async fn ask(message: Message) -> Result<Bytes, FunctionError> {
    let target = std::str::from_utf8(message.payload())?;
    Ok(message.call(target, "asked").await?)
}

async fn fail(_: Message) -> Result<Bytes, FunctionError> {
    Err("no such luck".into())
}

async fn client(ask: Ask) -> Result<(), Box<dyn Error + Send + Sync>> {
    let client = Client::connect(Config::from_env()?).await?;
    let [target] = &ask.pipeline[..] else {
        let mut results = client.job(ask.pipeline).run_iter([ask.payload])?;
        while let Some((_, result)) = results.next().await {
            println!("{}", String::from_utf8_lossy(&result?));
        }
        return Ok(());
    };
    let answer = client.call(target, ask.payload).await;
    println!("{answer:?}");
    Ok(())
}

fn main() -> ExitCode {
    let Traced { command } = argh::from_env();
    if let Err(error) = trace() {
        eprintln!("there are no traces: {error}");
        return ExitCode::FAILURE;
    }
    match command {
        Command::Run(run) => run.main(
            Server::new(env::var("PALM_TEST_STAGE").unwrap_or_default())
                .blocking("work", work)
                .function("ask", ask)
                .function("fail", fail),
        ),
        Command::Ask(ask) => match palm_peer::block_on(client(ask)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
    }
}
