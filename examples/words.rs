//! The server of the README, and how its functions are tested: `cargo test --example words`.
//!
//! `cargo run --example words -- run --etcd http://127.0.0.1:2379`

use palm_peer::{FunctionError, Message, Server, State};
use std::{
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
};

/// What all calls share: the number of words so far.
type Sum = State<AtomicUsize>;

async fn shout(message: Message) -> Result<String, FunctionError> {
    Ok(std::str::from_utf8(message.payload())?.to_uppercase())
}

async fn count(sum: Sum, text: String) -> Result<String, FunctionError> {
    let words = text.split_whitespace().count();
    sum.fetch_add(words, Ordering::Relaxed);
    Ok(words.to_string())
}

async fn total(sum: Sum, _: Message) -> Result<String, FunctionError> {
    Ok(sum.load(Ordering::Relaxed).to_string())
}

fn server() -> Server<Sum> {
    Server::new("text")
        .function("shout", shout)
        .with_state(AtomicUsize::new(0))
        .function("count", count)
        .function("total", total)
}

fn main() -> ExitCode {
    palm_peer::main(server())
}

#[cfg(test)]
mod tests {
    use super::*;
    use palm_peer::{
        CallErrorKind, Client,
        testing::{Etcd, RunningServer},
    };
    use std::time::Duration;

    type Outcome = Result<(), FunctionError>;

    /// Functions are plain functions.
    #[test]
    fn words_are_counted_and_shouted() -> Outcome {
        palm_peer::block_on(async {
            assert_eq!(shout(Message::new("hello")).await?, "HELLO");
            let sum = State::new(AtomicUsize::new(3));
            assert_eq!(count(sum.clone(), "to be".into()).await?, "2");
            assert_eq!(sum.load(Ordering::Relaxed), 5);
            Ok(())
        })
    }

    /// The server as its callers see it, without etcd and without sockets.
    #[test]
    fn counts_add_up() -> Outcome {
        palm_peer::block_on(async {
            let text = server().local()?;
            assert_eq!(text.call("count", "to be").await?, "2");
            assert_eq!(text.call("count", "or not to be").await?, "4");
            assert_eq!(text.call("total", "").await?, "6");
            let error = text.call("count", vec![0xff]).await.expect_err("no UTF-8");
            assert_eq!(error.kind(), CallErrorKind::BadMessage);
            Ok(())
        })
    }

    /// A mesh of two instances, with an etcd of its own.
    #[test]
    fn both_instances_are_called() -> Outcome {
        palm_peer::block_on(async {
            let etcd = Etcd::start()?;
            let client = Client::connect(etcd.config()).await?;
            let first = RunningServer::start(server(), etcd.config()).await?;
            let _second = RunningServer::start(server(), etcd.config()).await?;
            client.wait_for("text", 2, Duration::from_secs(10)).await?;
            let total = format!("{}.total", first.peer().uuid());
            assert_eq!(client.call(total, "").await?, "0");
            first.stop().await?;
            assert_eq!(client.call("text.shout", "hello").await?, "HELLO");
            Ok(())
        })
    }
}

#[cfg(test)]
mod readme {
    /// The README has the parts above, word for word.
    #[test]
    fn it_shows_this_file() {
        let (readme, file) = (include_str!("../README.md"), include_str!("words.rs"));
        let [_, server, tests, ..] = file
            .split("\n\nuse palm_peer::")
            .flat_map(|part| part.split("\n\n#[cfg(test)]\nmod "))
            .collect::<Vec<_>>()[..]
        else {
            panic!("the file has other parts");
        };
        for part in [server, tests] {
            assert!(readme.contains(part), "the README lacks:\n{part}");
        }
    }
}
