//! One mesh test, word for word the same, under every executor that people use.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use futures::{Stream, StreamExt as _, channel::oneshot, future::try_join};
use palm_peer::{
    Bytes, CallErrorKind, Client, Config, FunctionError, Message, Peer, PeerEvent, PeerState,
    Server,
};
use palm_tests::{Etcd, Process, example};

/// No executor needs this long.
const BOUND: Duration = Duration::from_secs(60);

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Two servers join, call each other from within their functions, hand over the lead and leave.
async fn mesh(options: Config) -> Outcome {
    let (first, stop_first, serve_first) = join(&options).await?;
    let mut first_events = first.events();
    let (mut states, all_states) = (first.watch(), first.watch());
    // It stands after it has joined; the second could otherwise be quicker.
    while !states.next().await.expect("a peer that is served").leading {}
    let (second, stop_second, serve_second) = join(&options).await?;
    let mut events = second.events();
    let scenario = async {
        let client = Client::connect(options.clone()).await?;
        sees(&client, 2).await?;
        // A server may hear of it after the clients.
        wait_for(&mut first_events, PeerEvent::Configured).await;
        wait_for(&mut events, PeerEvent::Configured).await;
        assert!(
            first.state().leading && !second.state().leading,
            "the first candidate leads"
        );
        for (from, to) in [(&first, &second), (&second, &first)] {
            let target = format!("{}.echo", to.uuid());
            let answer = client
                .call(format!("{}.relay", from.uuid()), target)
                .await?;
            assert_eq!(answer, format!("{}.echo says hello", to.uuid()));
            assert_eq!(
                client.call(format!("{}.count", to.uuid()), "12345").await?,
                "5"
            );
        }
        let error = client
            .call("node.hangs", "")
            .timeout(Duration::from_millis(50))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::TimedOut);

        stop_first.send(()).expect("the first is served");
        wait_for(&mut events, PeerEvent::Elected).await;
        sees(&client, 1).await?;
        assert!(second.state().leading && second.state().configured);
        assert_eq!(client.call("node.echo", "alone").await?, "alone");
        stop_second.send(()).expect("the second is served");
        Ok(())
    };
    let serving = try_join(serve_first, serve_second);
    try_join(serving, scenario).await?;
    for (peer, events) in [(first, first_events), (second, events)] {
        let _: Vec<PeerEvent> = events.collect().await;
        assert_eq!(
            peer.state(),
            PeerState::default(),
            "nothing happens to a server that has left"
        );
    }
    assert_eq!(
        all_states.collect::<Vec<_>>().await,
        [PeerState::default()],
        "a watch skips to the last state and ends"
    );
    Ok(())
}

/// A server of the mesh, its shutdown channel, and the thread that serves it.
async fn join(
    options: &Config,
) -> Result<
    (
        Arc<Peer>,
        oneshot::Sender<()>,
        impl Future<Output = Outcome> + Send + use<>,
    ),
    palm_peer::Error,
> {
    let own = options.clone();
    let server = Server::new("node")
        .function("echo", async |message: Message| {
            Ok::<_, FunctionError>(message.into_payload())
        })
        .function("hangs", async |_: Message| {
            futures::future::pending::<Result<Bytes, FunctionError>>().await
        })
        .function("relay", move |message: Message| relay(own.clone(), message))
        .blocking("count", |message: Message| {
            Ok::<_, FunctionError>(message.payload().len().to_string())
        });
    let peer = Arc::new(server.join(options.clone()).await?);
    let (stop, stopped) = oneshot::channel::<()>();
    let served = Arc::clone(&peer);
    let serve = async move { Outcome::Ok(served.serve(stopped).await?) };
    Ok((peer, stop, serve))
}

/// Calls what the payload names, from within a function.
async fn relay(options: Config, message: Message) -> Result<String, FunctionError> {
    let target = std::str::from_utf8(message.payload())?;
    let client = Client::connect(options).await?;
    let words = client.call(target, "hello").await?;
    Ok(format!("{target} says {}", std::str::from_utf8(&words)?))
}

async fn wait_for(events: &mut (impl Stream<Item = PeerEvent> + Unpin), wanted: PeerEvent) {
    while events.next().await.expect("the peer lives") != wanted {}
}

/// Waits until this many instances are published. (The timer is async-std's, which fires
/// under any executor.)
async fn sees(client: &Client, instances: usize) -> Outcome {
    while client
        .reachable()
        .first()
        .map_or(0, |reachable| reachable.instances)
        != instances
    {
        async_std::task::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Runs the mesh test under `executor`, on a thread of its own so that it is bounded in time.
fn under(executor: impl FnOnce(Config) -> Outcome + Send + 'static) {
    let etcd = Etcd::start();
    let options = Config::from_env().unwrap().etcd(vec![etcd.endpoint()]);
    let (tell, ended) = mpsc::channel();
    let running = thread::spawn(move || drop(tell.send(executor(options))));
    match ended.recv_timeout(BOUND) {
        Ok(outcome) => {
            outcome.expect("the mesh works");
            for folder in ["/servers/", "/election/", "/pipelines/"] {
                assert_eq!(
                    etcd.etcdctl(&["get", "--prefix", folder]),
                    "",
                    "they left in an orderly way"
                );
            }
        }
        Err(mpsc::RecvTimeoutError::Timeout) => {
            panic!("the mesh test has not ended within {BOUND:?}")
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(running.join().expect_err("it ended without an outcome"));
        }
    }
}

#[test]
fn under_tokio_with_many_threads() {
    under(|options| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .build()?;
        runtime.block_on(async { tokio::spawn(mesh(options)).await? })
    });
}

#[test]
fn under_tokio_with_one_thread() {
    under(|options| {
        tokio::runtime::Builder::new_current_thread()
            .build()?
            .block_on(mesh(options))
    });
}

#[test]
fn under_smol() {
    under(|options| smol::block_on(smol::spawn(mesh(options))));
}

#[test]
fn under_async_std() {
    under(|options| async_std::task::block_on(async_std::task::spawn(mesh(options))));
}

#[test]
fn under_the_librarys_own_block_on() {
    under(|options| palm_peer::block_on(mesh(options)));
}

#[test]
fn a_panic_in_block_on_reaches_its_caller() {
    let panic = std::panic::catch_unwind(|| palm_peer::block_on(async { panic!("on purpose") }));
    assert_eq!(
        panic.unwrap_err().downcast_ref::<&str>(),
        Some(&"on purpose")
    );
    assert_eq!(palm_peer::block_on(async { 1 }), 1, "its threads live on");
}

#[test]
fn under_a_bare_block_on() {
    under(|options| futures::executor::block_on(mesh(options)));
}

/// Two calls of a function that computes end only if both run at the same time: on two threads.
async fn meet(server: Server) -> Outcome {
    let met = Arc::new(AtomicUsize::new(0));
    let meets = move |_: Message| {
        let met = Arc::clone(&met);
        async move {
            async_std::task::sleep(Duration::from_millis(1)).await;
            met.fetch_add(1, Ordering::SeqCst);
            while met.load(Ordering::SeqCst) < 2 {
                std::hint::spin_loop();
            }
            Ok("met")
        }
    };
    let server = server.function("meets", meets).local()?;
    let call = || server.call("meets", "").timeout(BOUND).into_future();
    try_join(call(), call()).await?;
    Ok(())
}

#[test]
fn functions_that_compute_use_two_cores_under_each_executor() {
    type Executor = Box<dyn FnOnce(Server) -> Outcome + Send>;
    let tokio = |server: Server| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()?;
        let server = server.spawn_with(|function| {
            tokio::spawn(function);
        });
        runtime.block_on(meet(server))
    };
    let smol = |server: Server| {
        static EXECUTOR: smol::Executor<'_> = smol::Executor::new();
        for _ in 0..2 {
            thread::spawn(|| smol::block_on(EXECUTOR.run(futures::future::pending::<()>())));
        }
        smol::block_on(meet(
            server.spawn_with(|function| EXECUTOR.spawn(function).detach()),
        ))
    };
    let own = |server: Server| palm_peer::block_on(meet(server));
    let executors: [(&str, Executor); 3] = [
        ("tokio", Box::new(tokio)),
        ("smol", Box::new(smol)),
        ("block_on", Box::new(own)),
    ];
    for (name, executor) in executors {
        let (tx, ended) = mpsc::channel();
        thread::spawn(move || tx.send(executor(Server::new("computes"))));
        let ended = ended.recv_timeout(BOUND * 2);
        ended
            .unwrap_or_else(|error| panic!("{name}: {error}"))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn the_examples_serve_under_each_executor() {
    let etcd = Etcd::start();
    let options = Config::from_env().unwrap().etcd(vec![etcd.endpoint()]);
    let client = futures::executor::block_on(Client::connect(options)).unwrap();
    for name in ["printf", "printf_tokio", "printf_smol", "printf_async_std"] {
        let args: &[&str] = if name == "printf" { &["run"] } else { &[] };
        let server = Process::builder(example(name))
            .args(args)
            .env("PALM_ETCD", etcd.endpoint())
            .start();
        let bounded = async_std::future::timeout(BOUND, sees(&client, 1));
        futures::executor::block_on(bounded)
            .expect(name)
            .expect(name);
        let words = format!("Hello, {name}");
        assert_eq!(
            futures::executor::block_on(async {
                client.call("printf.printf", words.clone()).await
            })
            .expect(name),
            words
        );
        server.wait_for_line(|line| line == format!("INFO:{name}:{words}"), BOUND);
        server.terminate();
        assert!(
            server.wait(BOUND).success(),
            "{name} leaves in an orderly way"
        );
        futures::executor::block_on(async_std::future::timeout(BOUND, sees(&client, 0)))
            .expect(name)
            .expect(name);
    }
}
