//! Functions that panic, fail, hang, or return much.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::executor::block_on;
use palm_peer::{CallError, CallErrorKind, Client, FunctionError, Message, Server};
use palm_tests::{Etcd, eventually};

use crate::{
    functions::is_well,
    in_process::{InProcess, call, client, echo, settings},
};

const LIMIT: usize = 64 * 1024 * 1024;
/// Far more than the 50 ms that it may take, as the machine may be busy.
const AT_ONCE: Duration = Duration::from_millis(500);

/// An etcd, one server with these functions, and a client.
fn mesh(server: Server) -> (Etcd, InProcess, Client) {
    let etcd = Etcd::start();
    let inside = InProcess::start(server.function("echo", echo), settings(&etcd));
    let client = client(settings(&etcd), "zoo", 1);
    (etcd, inside, client)
}

#[track_caller]
fn fails(
    client: &Client,
    target: &str,
    payload: impl Into<Bytes>,
    kind: CallErrorKind,
) -> CallError {
    let error = call(client, target, payload).expect_err(target);
    assert_eq!(error.kind(), kind, "{target}: {error}");
    is_well(client);
    error
}

type Answer = Result<Bytes, FunctionError>;

#[test]
fn a_panic_is_answered_with_its_message() {
    let later = async |_: Message| -> Answer {
        async_std::task::yield_now().await;
        panic!("later")
    };
    let (_etcd, _server, client) = mesh(
        Server::new("zoo")
            .function("at_first", async |_: Message| -> Answer {
                panic!("at first")
            })
            .function("later", later)
            .function("in_closure", |_: Message| -> std::future::Ready<Answer> {
                panic!("in the closure")
            })
            .function("speechless", async |_: Message| -> Answer {
                std::panic::panic_any(7)
            })
            .blocking("blocking", |_: Message| -> Answer { panic!("on a thread") }),
    );
    for (target, words) in [
        ("zoo.at_first", "at first"),
        ("zoo.later", "later"),
        ("zoo.in_closure", "in the closure"),
        ("zoo.speechless", "a panic without a message"),
        ("zoo.blocking", "on a thread"),
    ] {
        let error = fails(&client, target, "", CallErrorKind::Panicked);
        assert_eq!(error.message(), words);
    }
}

#[test]
fn an_error_returns_the_functions_message() {
    let (_etcd, server, client) = mesh(
        Server::new("zoo")
            .function("fails", async |_: Message| -> Answer {
                Err("no such luck".into())
            })
            .blocking("fails_blocking", |_: Message| -> Answer {
                Err("no luck here".into())
            })
            // Each of these takes six bytes in JSON: uncut, they would not fit into a header.
            .function("rambles", async |_: Message| -> Answer {
                Err("\u{1}".repeat(100_000).into())
            }),
    );
    let error = fails(&client, "zoo.fails", "", CallErrorKind::Failed);
    assert_eq!(
        (error.message(), error.server()),
        ("no such luck", Some(server.peer.uuid()))
    );
    assert_eq!(
        fails(&client, "zoo.fails_blocking", "", CallErrorKind::Failed).message(),
        "no luck here"
    );
    let error = fails(&client, "zoo.rambles", "", CallErrorKind::Failed);
    assert!(error.message().starts_with('\u{1}') && error.message().ends_with('…'));
}

/// Counts when it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_hanging_function_is_cancelled_at_the_deadline() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&dropped);
    let (etcd, _server, client) = mesh(
        Server::new("zoo")
            .function("hangs", move |_: Message| {
                let guard = Dropped(Arc::clone(&counter));
                async move {
                    futures::future::pending::<()>().await;
                    drop(guard);
                    Ok::<_, FunctionError>("never")
                }
            })
            .blocking("dawdles", |_: Message| {
                thread::sleep(Duration::from_millis(600));
                Ok::<_, FunctionError>("late")
            }),
    );
    for target in ["zoo.hangs", "zoo.dawdles"] {
        let start = Instant::now();
        let error = block_on(async {
            client
                .call(target, "")
                .timeout(Duration::from_millis(200))
                .await
        });
        assert_eq!(error.expect_err(target).kind(), CallErrorKind::TimedOut);
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{target} took {:?}",
            start.elapsed()
        );
        is_well(&client);
    }
    eventually("the function is dropped", Duration::from_secs(5), || {
        (dropped.load(Ordering::SeqCst) == 1).then_some(())
    });
    // Without a deadline of the caller's, the options' bounds the call.
    let impatient = settings(&etcd).timeout(Duration::from_millis(200));
    let client = crate::in_process::client(impatient, "zoo", 1);
    let error = block_on(async { client.call("zoo.hangs", "").await }).expect_err("hangs");
    assert_eq!(error.kind(), CallErrorKind::TimedOut);
}

#[test]
fn empty_and_maximum_answers_arrive() {
    let (_etcd, _server, client) = mesh(Server::new("zoo").function(
        "sized",
        async |message: Message| {
            let size: usize = std::str::from_utf8(message.payload())?.parse()?;
            Ok::<_, FunctionError>(vec![b'x'; size])
        },
    ));
    assert_eq!(call(&client, "zoo.sized", "0").expect("nothing"), "");
    assert_eq!(call(&client, "zoo.echo", "").expect("nothing"), "");
    let all = call(&client, "zoo.sized", LIMIT.to_string()).expect("64 MiB");
    assert!(all.len() == LIMIT && all.iter().all(|byte| *byte == b'x'));
    let error = fails(
        &client,
        "zoo.sized",
        (LIMIT + 1).to_string(),
        CallErrorKind::TooLarge,
    );
    assert!(
        error
            .message()
            .contains("the function answered 67108865 bytes, 67108864 at most"),
        "{error}"
    );
}

#[test]
fn maximum_payloads_arrive_and_longer_ones_are_refused() {
    let (_etcd, server, client) = mesh(Server::new("zoo"));
    let all = Bytes::from(vec![7; LIMIT]);
    assert!(call(&client, "zoo.echo", all.clone()).expect("64 MiB") == all);
    let error = fails(
        &client,
        "zoo.echo",
        vec![7; LIMIT + 1],
        CallErrorKind::TooLarge,
    );
    assert_eq!(error.server(), None, "the client does not even send it");
    // A client that ignores the limit gets an error from the server, which continues to read.
    let mut stranger = crate::in_process::Stranger::at(server.peer.endpoint());
    let header = r#"{"palm":1,"pipeline":["zoo.echo"],"idx":3}"#;
    let (answer, _) = stranger.ask([Bytes::from(header), vec![7; LIMIT + 1].into()]);
    assert_eq!(
        (&answer["error"]["kind"], &answer["idx"]),
        (&"too_large".into(), &3.into()),
        "{answer}"
    );
    assert_eq!(stranger.ask([header, "well"]).1, "well");
}

#[test]
fn unknown_names_fail_at_once_and_list_the_known() {
    let (_etcd, server, client) = mesh(Server::new("zoo"));
    let nobody = "11111111-2222-4333-8444-555555555555.echo";
    for (target, kind, words) in [
        (
            "zoo.roar",
            CallErrorKind::NoSuchFunction,
            "zoo has no function roar, only echo, _ping, _log_query, get",
        ),
        (
            "park.echo",
            CallErrorKind::NoSuchServer,
            "the published ones are zoo",
        ),
        (
            nobody,
            CallErrorKind::NoSuchServer,
            "the published ones are zoo",
        ),
        ("zoo", CallErrorKind::BadMessage, "server.function"),
        (
            "zoo.echo.echo",
            CallErrorKind::BadMessage,
            "server.function",
        ),
    ] {
        let start = Instant::now();
        let error = call(&client, target, "").expect_err(target);
        assert!(
            start.elapsed() < AT_ONCE,
            "{target} took {:?}",
            start.elapsed()
        );
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(words), "{error}");
        is_well(&client);
    }
    let by_uuid = format!("{}.echo", server.peer.uuid());
    assert_eq!(call(&client, &by_uuid, "you").expect("by uuid"), "you");
}

/// The server used to compare its uuid as text, and so answered a client that had found it
/// with `wrong_server`.
#[test]
fn a_uuid_in_capitals_is_the_same_uuid() {
    let (_etcd, server, client) = mesh(Server::new("zoo"));
    let target = format!("{}.echo", server.peer.uuid().to_string().to_uppercase());
    assert_eq!(call(&client, &target, "you").expect("by uuid"), "you");
}
