//! Calls the `printf` server, and prints the answer and how long it took.
//!
//! `cargo run --example call_printf -- Hello`, with etcd's URLs in `PALM_ETCD`

use palm_peer::{Client, Config};
use std::{
    error::Error,
    io::{self, Write as _},
    time::Instant,
};

async fn call(words: String) -> Result<(), Box<dyn Error + Send + Sync>> {
    let client = Client::connect(Config::from_env()?).await?;
    let start = Instant::now();
    let answer = client.call("printf.printf", words).await?;
    writeln!(
        io::stdout(),
        "{} (in {:?})",
        String::from_utf8_lossy(&answer),
        start.elapsed()
    )?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let words = std::env::args().nth(1).unwrap_or_else(|| "Hello".into());
    // Any executor works.
    palm_peer::block_on(call(words))
}
