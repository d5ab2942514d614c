//! The processes besides the measuring one: real servers, and clients.

use crate::Outcome;
use bytes::Bytes;
use futures::{
    StreamExt as _,
    channel::oneshot,
    future::{join_all, pending, try_join_all},
};
use log::LevelFilter;
use palm_peer::{
    CallErrorKind, Client, Config, FunctionError, Message, PeerEvent, Server, block_on,
    logging::{self, LogFormat},
};
use palm_tests::processor_time;
use std::{
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two calls of [`caller`].
const PAUSE: Duration = Duration::from_millis(10);
/// How long [`load`] calls before it measures, and while it does.
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_millis(1500);

async fn echo(message: Message) -> Result<Bytes, FunctionError> {
    Ok(message.into_payload())
}

fn config(etcd: &str) -> Config {
    Config::default().etcd(vec![etcd.to_owned()])
}

/// Runs real servers of this name, which log as usual, until SIGTERM.
pub(crate) fn peers(etcd: &str, name: &str, count: usize) -> Outcome<()> {
    logging::init(LevelFilter::Info, LogFormat::Auto)?;
    let (options, name) = (config(etcd), name.to_owned());
    block_on(async move {
        let serve = |_| {
            let (options, name) = (options.clone(), name.clone());
            async move {
                Server::new(name)
                    .function("echo", echo)
                    .run(options, palm_peer::signals()?)
                    .await
            }
        };
        try_join_all((0..count).map(serve)).await
    })?;
    Ok(())
}

/// Runs a server of this name that joins, is configured, and leaves, repeatedly, as in a
/// rolling restart.
pub(crate) fn roll(etcd: &str, name: &str, count: usize) -> Outcome<()> {
    let (options, name) = (config(etcd), name.to_owned());
    block_on(async move {
        for _ in 0..count {
            let peer = Server::new(name.clone())
                .function("echo", echo)
                .join(options.clone())
                .await?;
            let mut events = peer.events();
            let configured = async {
                while !peer.state().configured
                    && events
                        .next()
                        .await
                        .is_some_and(|event| event != PeerEvent::Configured)
                {}
            };
            peer.serve(configured).await?;
        }
        Ok(())
    })
}

/// Runs clients that watch the mesh without calls, until they are killed.
pub(crate) fn watchers(etcd: &str, count: usize) -> Outcome<()> {
    let options = config(etcd);
    block_on(async move {
        let clients = try_join_all((0..count).map(|_| Client::connect(options.clone()))).await?;
        println!("connected");
        pending::<()>().await;
        drop(clients);
        Ok(())
    })
}

/// Runs a client that calls `target` one call after the other, until it is killed; prints five
/// times a second how many calls there were, how many failed, how many of these because there was
/// no server, and the longest call since the last line, in ms.
pub(crate) fn caller(etcd: &str, target: &str) -> Outcome<()> {
    let (options, target) = (config(etcd), target.to_owned());
    block_on(async move {
        let client = Client::connect(options).await?;
        let (mut calls, mut errors, mut missing) = (0_u64, 0_u64, 0_u64);
        let (mut said, mut longest) = (Instant::now(), Duration::ZERO);
        loop {
            let began = Instant::now();
            let called = client.call(&target, "hello").timeout(CALL_TIMEOUT).await;
            longest = longest.max(began.elapsed());
            calls += 1;
            if let Err(error) = called {
                errors += 1;
                missing += u64::from(error.kind() == CallErrorKind::NoSuchServer);
            }
            if said.elapsed() > Duration::from_millis(200) {
                println!("calls {calls} {errors} {missing} {}", longest.as_millis());
                said = Instant::now();
                longest = Duration::ZERO;
            }
            smol::Timer::after(PAUSE).await;
        }
    })
}

/// Runs a client that calls `target` with this many calls in flight; prints the cost of a call
/// in µs of CPU time.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn load(etcd: &str, target: &str, in_flight: usize) -> Outcome<()> {
    let (options, target) = (config(etcd), target.to_owned());
    let cost = block_on(async move {
        let client = Client::connect(options).await?;
        let (stop, calls) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let call = |_| {
            let (client, target) = (client.clone(), target.clone());
            let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
            async move {
                while !stop.load(Ordering::Relaxed) {
                    if client
                        .call(&target, "hello")
                        .timeout(CALL_TIMEOUT)
                        .await
                        .is_ok()
                    {
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        };
        let calling = join_all((0..in_flight).map(call));
        let (tell, told) = oneshot::channel();
        let measuring = {
            let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
            async move {
                smol::Timer::after(WARM_UP).await;
                let before = (
                    processor_time(process::id()).as_secs_f64(),
                    calls.load(Ordering::Relaxed),
                );
                smol::Timer::after(MEASURED).await;
                let used = processor_time(process::id()).as_secs_f64() - before.0;
                let made = calls.load(Ordering::Relaxed) - before.1;
                stop.store(true, Ordering::Relaxed);
                let _ = tell.send(used * 1e6 / made.max(1) as f64);
            }
        };
        futures::future::join(calling, measuring).await;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(told.await?)
    })?;
    println!("cost {cost}");
    Ok(())
}
