//! Counts the words of a text with a pipeline of three servers: one splits, one
//! normalises, one counts.
//!
//! `cargo run --example word_count`, or `cargo run --example word_count -- book.txt`, with etcd's
//! URLs in `PALM_ETCD`. The three servers run in this process, so that one command shows
//! everything; as separate processes they would be called in the same way. The paragraphs go from
//! server to server; this program only receives their counts, and adds them up.

use futures::{StreamExt as _, executor::block_on};
use palm_examples::{Hosted, READY_WITHIN};
use palm_peer::{Client, Config, FunctionError, Message, Server};
use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    io::{self, Write as _},
};

/// The default text: the licence in this repository.
const TEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../LICENSE-APACHE");
/// How many words are printed.
const SHOWN: usize = 10;

type Counts = BTreeMap<String, u64>;

/// Splits a text into its words, one per line.
async fn split(message: Message) -> Result<String, FunctionError> {
    Ok(std::str::from_utf8(message.payload())?
        .split_whitespace()
        .collect::<Vec<_>>()
        .join("\n"))
}

/// Normalises words: lower case, without punctuation around them.
async fn normalise(message: Message) -> Result<String, FunctionError> {
    let words = std::str::from_utf8(message.payload())?.lines().map(normal);
    Ok(words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("\n"))
}

/// Counts words; the result is JSON.
async fn count(message: Message) -> Result<Vec<u8>, FunctionError> {
    let mut counts = Counts::new();
    for word in std::str::from_utf8(message.payload())?.lines() {
        *counts.entry(word.to_owned()).or_default() += 1;
    }
    Ok(serde_json::to_vec(&counts)?)
}

fn normal(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric())
        .to_lowercase()
}

/// Streams the paragraphs of a text through the pipeline, and adds up the results.
async fn count_words(client: &Client, text: String) -> Result<Counts, Box<dyn Error>> {
    let paragraphs: Vec<_> = text.split("\n\n").map(str::to_owned).collect();
    let job = client.job(["split.words", "normalise.words", "count.words"]);
    // The order of the paragraphs does not matter for a sum.
    let mut results = job.unordered().run_iter(paragraphs)?;
    let mut total = Counts::new();
    while let Some((idx, result)) = results.next().await {
        let counts = result.map_err(|error| format!("paragraph {idx}: {error}"))?;
        for (word, count) in serde_json::from_slice::<Counts>(&counts)? {
            *total.entry(word).or_default() += count;
        }
    }
    Ok(total)
}

/// Counts the same without any server, for comparison.
fn count_here(text: &str) -> Counts {
    let mut total = Counts::new();
    for word in text
        .split_whitespace()
        .map(normal)
        .filter(|word| !word.is_empty())
    {
        *total.entry(word).or_default() += 1;
    }
    total
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| TEXT.to_owned());
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let options = Config::from_env()?;
    let _servers = [
        Hosted::start(
            Server::new("split").function("words", split),
            options.clone(),
        )?,
        Hosted::start(
            Server::new("normalise").function("words", normalise),
            options.clone(),
        )?,
        Hosted::start(
            Server::new("count").function("words", count),
            options.clone(),
        )?,
    ];
    let client = block_on(Client::connect(options))?;
    for server in ["split", "normalise", "count"] {
        block_on(client.wait_for(server, 1, READY_WITHIN))?;
    }
    let here = count_here(&text);
    let counts = block_on(count_words(&client, text))?;

    let mut sorted: Vec<_> = counts.iter().collect();
    // The most frequent first, and equally frequent ones in alphabetical order (the
    // sort is stable).
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (word, count) in sorted.iter().take(SHOWN) {
        writeln!(io::stdout(), "{count:>6} {word}")?;
    }
    writeln!(
        io::stdout(),
        "{} words, {} different ones",
        counts.values().sum::<u64>(),
        counts.len()
    )?;
    if counts == here {
        Ok(())
    } else {
        Err("counted here, the words are others".into())
    }
}
