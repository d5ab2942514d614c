use super::*;
use crate::{CallErrorKind, FunctionError, Message, Server};
use futures::{executor::block_on, future::join};
use std::{
    future::poll_fn,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

type Test = Result<(), FunctionError>;

/// Spawns futures as a runtime that was shut down: not at all.
fn drops(future: BoxFuture<'static, ()>) {
    drop(future);
}

/// As `tokio::spawn` outside of a runtime.
fn refuses(future: BoxFuture<'static, ()>) {
    drop(future);
    panic!("there is no runtime");
}

/// Each future has a thread.
fn threads(future: BoxFuture<'static, ()>) {
    thread::spawn(|| block_on(future));
}

/// A future that is pending once.
async fn pending_once() {
    let mut polled = false;
    poll_fn(move |cx| {
        if std::mem::replace(&mut polled, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Two calls of its function end only if they run at the same time.
fn meeting() -> Server {
    let met = Arc::new(AtomicUsize::new(0));
    Server::new("meeting").function("meets", move |_: Message| {
        let met = Arc::clone(&met);
        async move {
            pending_once().await;
            met.fetch_add(1, Ordering::SeqCst);
            while met.load(Ordering::SeqCst) < 2 {
                thread::yield_now();
            }
            Ok("met")
        }
    })
}

async fn meet(server: Server) -> Test {
    let server = server.local()?;
    let within = Duration::from_secs(60);
    let calls = join(
        server.call("meets", "").timeout(within).into_future(),
        server.call("meets", "").timeout(within).into_future(),
    );
    let (first, second) = calls.await;
    assert_eq!((first?, second?), ("met".into(), "met".into()));
    Ok(())
}

#[test]
fn functions_of_a_server_with_a_hook_run_in_parallel() -> Test {
    block_on(meet(meeting().spawn_with(threads)))
}

#[test]
fn functions_inside_of_block_on_run_in_parallel() -> Test {
    crate::block_on(meet(meeting()))
}

#[test]
fn functions_that_end_at_once_are_not_spawned() -> Test {
    block_on(async {
        let server = Server::new("text")
            .function("echo", async |text: String| Ok(text))
            .blocking("length", |text: String| Ok(text.len().to_string()))
            .spawn_with(|_| panic!("nothing is to be spawned"))
            .local()?;
        assert_eq!(server.call("echo", "x").await?, "x");
        assert_eq!(server.call("length", "xyz").await?, "3");
        Ok(())
    })
}

#[test]
fn a_spawned_function_that_panics_is_answered() -> Test {
    block_on(async {
        let panics = async |_: Message| -> Result<String, FunctionError> {
            pending_once().await;
            panic!("on purpose")
        };
        let server = Server::new("text").function("panics", panics);
        let server = server.spawn_with(threads).local()?;
        let error = server.call("panics", "").await.expect_err("it panics");
        assert_eq!(error.kind(), CallErrorKind::Panicked);
        assert!(error.to_string().contains("on purpose"), "{error}");
        Ok(())
    })
}

/// An executor that was shut down, and a hook that panics as `tokio::spawn` does outside of a
/// runtime: more calls than may run at once get an error each, and the server goes on.
#[test]
fn functions_that_are_not_spawned_fail_and_hold_no_place() -> Test {
    for (hook, reason) in [
        (Arc::new(drops) as Hook, "dropped the function"),
        (Arc::new(refuses) as Hook, "there is no runtime"),
    ] {
        block_on(async {
            let waits = async |_: Message| {
                pending_once().await;
                Ok("not reached")
            };
            let server = Server::new("text").function("waits", waits);
            let config = palm_proto::config::Config::default().max_in_flight(2);
            let server = server
                .spawn_with(move |future| hook(future))
                .local_with(config)?;
            for _ in 0..5 {
                let error = server.call("waits", "").await.expect_err("it is lost");
                assert_eq!(error.kind(), CallErrorKind::Unreachable);
                assert!(error.to_string().contains(reason), "{error}");
            }
            let ping = server
                .call_json::<_, serde_json::Value>("_ping", "")
                .await?;
            assert_eq!(
                (&ping["in_flight"], &ping["requests"]),
                (&0.into(), &5.into())
            );
            assert_eq!(ping["functions"]["waits"]["in_flight"], 0);
            Ok::<_, FunctionError>(())
        })?;
    }
    Ok(())
}

/// What a function holds while it waits.
struct Held(Arc<AtomicBool>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The futures of an executor that nobody runs.
#[derive(Clone, Default)]
struct Stopped(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl Stopped {
    fn futures(&self) -> MutexGuard<'_, Vec<BoxFuture<'static, ()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[test]
fn a_deadline_holds_even_if_the_executor_stands_still() -> Test {
    block_on(async {
        let (stopped, dropped) = (Stopped::default(), Arc::new(AtomicBool::new(false)));
        let held = Arc::clone(&dropped);
        let waits = move |_: Message| {
            let held = Held(Arc::clone(&held));
            async move {
                futures::future::pending::<()>().await;
                drop(held);
                Ok("not reached")
            }
        };
        let spawned = stopped.clone();
        let server = Server::new("text")
            .function("waits", waits)
            .spawn_with(move |future| spawned.futures().push(future))
            .local()?;
        let call = server.call("waits", "").timeout(Duration::from_millis(50));
        let error = call.await.expect_err("it waits for ever");
        assert_eq!(error.kind(), CallErrorKind::TimedOut);
        // It is stopped when its executor polls it.
        assert!(!dropped.load(Ordering::SeqCst));
        let futures = std::mem::take(&mut *stopped.futures());
        assert_eq!(futures.len(), 1);
        let polled = thread::spawn(|| futures.into_iter().for_each(block_on));
        polled.join().expect("it does not panic");
        assert!(dropped.load(Ordering::SeqCst), "the function was stopped");
        Ok(())
    })
}
