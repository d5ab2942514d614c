use super::super::{blocking, slot::Slot};
use crate::{CallErrorKind, ErrorKind, FunctionError, LocalServer, Message, Server};
use futures::{
    StreamExt as _,
    channel::{mpsc, oneshot},
    executor::block_on,
    future::{join, join_all},
};
use serde_json::Value;
use std::{
    sync::{Mutex, PoisonError, Weak, mpsc as blocking_mpsc},
    thread,
    time::{Duration, Instant},
};

type Test = Result<(), FunctionError>;

/// Functions that run until they are let go: dropping what this gives does that.
type Gate = mpsc::UnboundedReceiver<oneshot::Sender<()>>;

/// No test needs that long.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

/// A server whose function `waits` runs until it is let go.
fn gated() -> (Gate, Server) {
    let (tx, gate) = mpsc::unbounded();
    let waits = move |text: String| {
        let (go, gone) = oneshot::channel();
        let sent = tx.unbounded_send(go);
        async move {
            sent?;
            let _ = gone.await;
            Ok(text)
        }
    };
    (gate, Server::new("zoo").function("waits", waits))
}

async fn figures(server: &LocalServer, function: &str) -> Result<Value, FunctionError> {
    let ping: Value = server.call_json("_ping", "").await?;
    Ok(ping["functions"][function].clone())
}

#[test]
fn a_limit_holds_up_only_its_own_function() -> Test {
    block_on(async {
        let (mut gate, server) = gated();
        let server = server
            .limit(2)
            .function("echo", async |text: String| Ok(text))
            .local()?;
        let calls = (0..5).map(|number| server.call("waits", number.to_string()).timeout(LONG));
        let calls = join_all(calls.map(IntoFuture::into_future));
        let scenario = async {
            let mut running = vec![gate.next().await, gate.next().await];
            let waits = figures(&server, "waits").await?;
            assert_eq!(waits["limit"], 2);
            assert_eq!(
                (&waits["in_flight"], &waits["queued"]),
                (&2.into(), &3.into())
            );
            assert_eq!(server.call("echo", "x").await?, "x");
            assert_eq!(figures(&server, "echo").await?["limit"], Value::Null);
            for _ in 0..3 {
                assert!(gate.try_recv().is_err(), "no more than two run");
                running.remove(0);
                running.push(gate.next().await);
            }
            running.clear();
            Ok::<_, FunctionError>(())
        };
        let (answers, outcome) = join(calls, scenario).await;
        outcome?;
        let answers: Result<Vec<_>, _> = answers.into_iter().collect();
        assert_eq!(answers?, ["0", "1", "2", "3", "4"]);
        let waits = figures(&server, "waits").await?;
        assert_eq!(
            (&waits["in_flight"], &waits["queued"]),
            (&0.into(), &0.into())
        );
        Ok(())
    })
}

/// Functions that end at once, fail or panic leave their places as well, and so do those that run on
/// threads of their own.
#[test]
fn a_limit_holds_for_each_end_of_a_function() -> Test {
    for spawned in [false, true] {
        block_on(async {
            let ends = async |text: String| match text.as_str() {
                "panic" => panic!("on purpose"),
                "wait" => {
                    crate::io::timer::sleep(Duration::from_millis(1)).await;
                    Ok("waited")
                }
                "wait and panic" => {
                    crate::io::timer::sleep(Duration::from_millis(1)).await;
                    panic!("on purpose")
                }
                "hang" => futures::future::pending().await,
                "fail" => Err("on purpose".into()),
                _ => Ok("at once"),
            };
            let mut server = Server::new("zoo").function("ends", ends).limit(1);
            if spawned {
                server = server.spawn_with(|future| drop(thread::spawn(|| block_on(future))));
            }
            let server = server.local()?;
            let ways = ["", "panic", "wait", "wait and panic", "fail", "hang", ""];
            let calls = ways.map(|way| {
                server.call("ends", way).timeout(match way {
                    "hang" => SHORT,
                    _ => LONG,
                })
            });
            let calls = join_all(calls.into_iter().map(IntoFuture::into_future)).await;
            let kinds = calls
                .into_iter()
                .map(|call| call.err().map(|error| error.kind()));
            let (panicked, failed) = (CallErrorKind::Panicked, CallErrorKind::Failed);
            assert_eq!(
                kinds.collect::<Vec<_>>(),
                [
                    None,
                    Some(panicked),
                    None,
                    Some(panicked),
                    Some(failed),
                    Some(CallErrorKind::TimedOut),
                    None
                ]
            );
            Ok::<_, FunctionError>(())
        })?;
    }
    Ok(())
}

#[test]
fn the_earlier_of_timeout_and_deadline_stops_a_function() -> Test {
    block_on(async {
        let (mut gate, server) = gated();
        let server = server.timeout(SHORT).local()?;
        let error = server
            .call("waits", "")
            .timeout(LONG)
            .await
            .expect_err("it hangs");
        assert_eq!(error.kind(), CallErrorKind::TimedOut);
        let message = error.to_string();
        assert!(
            message.contains("did not end within its timeout of 50ms"),
            "{message}"
        );
        assert!(
            gate.next().await.is_some_and(|go| go.is_canceled()),
            "it was stopped"
        );

        let (_gate, server) = gated();
        let server = server.timeout(LONG).local()?;
        let error = server
            .call("waits", "")
            .timeout(SHORT)
            .await
            .expect_err("it hangs");
        let message = error.to_string();
        assert!(
            message.contains("did not end before the deadline"),
            "{message}"
        );
        Ok(())
    })
}

#[test]
fn a_function_sees_its_own_deadline() -> Test {
    block_on(async {
        let left = async |message: Message| {
            let left = message.deadline().saturating_duration_since(Instant::now());
            Ok((left <= SHORT).to_string())
        };
        let server = Server::new("zoo").function("left", left).timeout(SHORT);
        assert_eq!(
            server.local()?.call("left", "").timeout(LONG).await?,
            "true"
        );
        Ok(())
    })
}

#[test]
fn a_blocking_function_over_its_timeout_keeps_its_place() -> Test {
    block_on(async {
        let (go, gone) = blocking_mpsc::channel::<()>();
        let gone = Mutex::new(gone);
        let blocks = move |text: String| {
            if text.is_empty() {
                return Ok("done");
            }
            // Until it is let go.
            gone.lock().unwrap_or_else(PoisonError::into_inner).recv()?;
            Ok("done")
        };
        let server = Server::new("zoo")
            .blocking("blocks", blocks)
            .limit(1)
            .timeout(SHORT);
        let server = server.local()?;
        let error = server
            .call("blocks", "x")
            .timeout(LONG)
            .await
            .expect_err("it blocks");
        assert_eq!(error.kind(), CallErrorKind::TimedOut);
        assert!(error.to_string().contains("runs on"), "{error}");
        let blocks = figures(&server, "blocks").await?;
        assert_eq!(
            (&blocks["overdue"], &blocks["in_flight"]),
            (&1.into(), &0.into())
        );
        // It waits in the queue, where the timeout of the function does not count.
        let error = server
            .call("blocks", "")
            .timeout(SHORT * 4)
            .await
            .expect_err("it waits");
        assert!(
            error
                .to_string()
                .contains("before the function could start"),
            "{error}"
        );
        go.send(())?;
        // On a busy machine the pool may take longer than the timeout.
        let end = Instant::now() + LONG;
        while let Err(error) = server.call("blocks", "").timeout(LONG).await {
            assert!(Instant::now() < end, "its place is free: {error}");
        }
        assert_eq!(figures(&server, "blocks").await?["overdue"], 0);
        Ok(())
    })
}

/// The pool had no thread for it until its deadline.
#[test]
fn a_blocking_function_does_not_start_after_it_was_stopped() {
    let function = blocking(|_: Message| -> Result<String, FunctionError> {
        unreachable!("its time is over")
    });
    let mut message = Message::new("");
    message.slot = Some(Weak::<Slot>::new());
    let error = block_on((function.call)(message)).expect_err("it does not run");
    assert!(error.to_string().contains("before it started"), "{error}");
}

#[test]
fn limits_that_cannot_be_are_refused() {
    let echo = async |text: String| Ok(text);
    let servers = [
        (Server::new("zoo").limit(1), "behind the function"),
        (Server::new("zoo").timeout(LONG), "behind the function"),
        (
            Server::new("zoo").function("echo", echo).limit(0),
            "limit(0)",
        ),
        (
            Server::new("zoo")
                .function("echo", echo)
                .timeout(Duration::ZERO),
            "timeout(0)",
        ),
    ];
    for (server, reason) in servers {
        let error = server.local().expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(reason), "{error}");
    }
    let longest = Server::new("zoo")
        .function("echo", echo)
        .timeout(Duration::MAX);
    let call = async {
        longest
            .local()?
            .call("echo", "x")
            .await
            .map_err(FunctionError::from)
    };
    assert_eq!(block_on(call).expect("no overflow"), "x");
}
