//! A server with a subscriber of tracing of its own: `traced.say` logs its payload by tracing and by `log`.
//!
//! Only for tests; the documentation of `palm_peer::logging::tracing_layer` has the same set-up.

use palm_peer::{Config, FunctionError, Server};
use tracing_subscriber::{
    Layer as _, filter::LevelFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

async fn say(text: String) -> Result<String, FunctionError> {
    tracing::warn!(length = text.len(), "by tracing: {text}");
    log::warn!(target: "said", "by log: {text}");
    Ok(text)
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    tracing_subscriber::registry()
        .with(
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(false)
                .with_filter(LevelFilter::INFO),
        )
        .with(palm_peer::logging::tracing_layer())
        .init();
    palm_peer::block_on(async {
        let server = Server::new("traced").function("say", say);
        server
            .run(Config::from_env()?, palm_peer::signals()?)
            .await?;
        Ok(())
    })
}
