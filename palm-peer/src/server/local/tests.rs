use super::*;
use crate::{
    error::ErrorKind,
    io::timer,
    server::message::{FunctionError, Message},
};
use futures::{channel::oneshot, executor::block_on, future::join, poll};
use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

type Answer = Result<Bytes, FunctionError>;

async fn echo(message: Message) -> Answer {
    Ok(message.into_payload())
}

async fn hang(_: Message) -> Answer {
    pending().await
}

fn zoo() -> Server {
    Server::new("zoo")
        .function("echo", echo)
        .function("hang", hang)
        .function("fail", async |_: Message| -> Answer {
            Err("no such luck".into())
        })
        .function("panic", async |_: Message| -> Answer { panic!("at once") })
        .blocking("length", |message: Message| -> Answer {
            Ok(message.payload().len().to_string().into())
        })
        .blocking("panic_blocking", |_: Message| -> Answer {
            panic!("on a thread")
        })
}

fn kind(called: Result<Bytes, CallError>) -> CallErrorKind {
    called.expect_err("the call fails").kind()
}

#[test]
fn calls_and_errors_are_those_of_a_server() {
    block_on(async {
        let zoo = zoo().local().expect("a valid server");
        assert_eq!(zoo.call("echo", "hello").await.expect("an echo"), "hello");
        assert_eq!(zoo.call("zoo.length", "hello").await.expect("5"), "5");
        for (function, kind, message) in [
            ("fail", CallErrorKind::Failed, "no such luck"),
            ("panic", CallErrorKind::Panicked, "at once"),
            ("panic_blocking", CallErrorKind::Panicked, "on a thread"),
            (
                "shout",
                CallErrorKind::NoSuchFunction,
                "zoo has no function shout, only echo, fail, hang, length, panic, panic_blocking, _ping,",
            ),
            ("text.shout", CallErrorKind::WrongServer, "this is zoo"),
        ] {
            let error = zoo.call(function, "").await.expect_err("it fails");
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.message().starts_with(message), "{error}");
            assert_eq!(error.server(), Some(zoo.uuid));
        }
        zoo.call("set", "42").cache("answer").await.expect("stored");
        let stored = zoo.call("get", "").cache("answer").await;
        assert_eq!(stored.expect("the stored value"), "42");
        assert!(zoo.call("_ping", "").await.is_ok());
    });
}

#[test]
fn limits_and_deadlines_apply() {
    let config = Config::default()
        .max_payload(16)
        .max_in_flight(1)
        .max_queued(1);
    block_on(async {
        let zoo = zoo().local_with(config).expect("a valid configuration");
        assert_eq!(
            kind(zoo.call("echo", vec![0; 17]).await),
            CallErrorKind::TooLarge
        );
        let soon = Duration::from_millis(50);
        assert_eq!(
            kind(zoo.call("hang", "").timeout(soon).await),
            CallErrorKind::TimedOut
        );
        // One runs, one waits; there is no room for another.
        let mut running = zoo.call("hang", "").into_future();
        let mut waiting = zoo.call("echo", "").into_future();
        assert!(poll!(&mut running).is_pending());
        assert!(poll!(&mut waiting).is_pending());
        assert_eq!(kind(zoo.call("echo", "").await), CallErrorKind::Busy);
    });
}

#[test]
fn functions_run_concurrently_even_if_a_call_is_not_polled() {
    let (tx, rx) = oneshot::channel::<()>();
    let (tx, rx) = (Mutex::new(Some(tx)), Mutex::new(Some(rx)));
    let server = zoo()
        .function("wait", move |_: Message| {
            let rx = crate::sync::lock(&rx).take().expect("one call");
            async move { Ok::<_, FunctionError>(rx.await.map(|()| "released")?) }
        })
        .function("release", move |_: Message| {
            let _ = crate::sync::lock(&tx).take().map(|tx| tx.send(()));
            async { Ok::<_, FunctionError>("") }
        });
    block_on(async {
        let zoo = server.local().expect("a valid server");
        let mut idle = zoo.call("hang", "").into_future();
        assert!(poll!(&mut idle).is_pending());
        let other = zoo.clone();
        let waiting = zoo.call("wait", "").into_future();
        let releasing = other.call("release", "").into_future();
        let both = timer::timeout(Duration::from_secs(20), join(waiting, releasing)).await;
        let (waited, released) = both.unwrap_or_else(|_| panic!("the calls do not end"));
        assert_eq!(waited.expect("released"), "released");
        assert!(released.is_ok());
    });
}

#[test]
fn functions_run_on_the_executor_of_the_test() {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let server = zoo().function("here", async |_: Message| -> Answer {
        Ok(Bytes::from(format!("{:?}", std::thread::current().id())))
    });
    let here = format!("{:?}", std::thread::current().id());
    let zoo = server.local().expect("a valid server");
    let calling = async { zoo.call("here", "").await };
    let answer = runtime.expect("a runtime").block_on(calling);
    assert_eq!(answer.expect("the id of a thread"), here);
}

#[test]
fn a_function_is_dropped_at_its_deadline_and_at_the_end() {
    struct Flag(Arc<AtomicBool>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let server = Server::new("zoo").function("hang", move |_: Message| {
        let flag = Flag(Arc::clone(&flag));
        async move {
            let _flag = flag;
            pending::<Answer>().await
        }
    });
    block_on(async {
        let zoo = server.local().expect("a valid server");
        let soon = Duration::from_millis(10);
        let called = zoo.call("hang", "").timeout(soon).await;
        assert_eq!(kind(called), CallErrorKind::TimedOut);
        assert!(dropped.swap(false, Ordering::SeqCst), "at its deadline");
        {
            let mut running = zoo.call("hang", "").into_future();
            assert!(poll!(&mut running).is_pending());
        }
        drop(zoo);
        assert!(dropped.load(Ordering::SeqCst), "with the server");
    });
}

#[test]
fn what_join_refuses_is_refused() {
    for server in [
        Server::new("no name"),
        Server::new("zoo").function("_ping", echo),
        Server::new("zoo")
            .function("echo", echo)
            .function("echo", echo),
    ] {
        let error = server.local().expect_err("an invalid server");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    }
    let invalid = Config::default().max_in_flight(0);
    let error = zoo().local_with(invalid).expect_err("an invalid setting");
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
}
