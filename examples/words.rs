//! The server of the README, and how its functions are tested: `cargo test --example words`.
//!
//! `cargo run --example words -- run --etcd http://127.0.0.1:2379`

use palm_peer::{FunctionError, Message, Server};
use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

async fn shout(message: Message) -> Result<String, FunctionError> {
    Ok(std::str::from_utf8(message.payload())?.to_uppercase())
}

fn server() -> Server {
    let sum = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&sum);
    let count = move |message: Message| {
        let sum = Arc::clone(&shared);
        async move {
            let words = std::str::from_utf8(message.payload())?
                .split_whitespace()
                .count();
            sum.fetch_add(words, Ordering::Relaxed);
            Ok::<_, FunctionError>(words.to_string())
        }
    };
    let total = move |_: Message| {
        let words = sum.load(Ordering::Relaxed).to_string();
        async move { Ok::<_, FunctionError>(words) }
    };
    Server::new("text")
        .function("shout", shout)
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

    /// One function, as a plain function.
    #[test]
    fn shout_is_in_upper_case() -> Outcome {
        let answer = palm_peer::block_on(shout(Message::new("hello")))?;
        assert_eq!(answer, "HELLO");
        Ok(())
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
            assert_eq!(error.kind(), CallErrorKind::Failed);
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
