//! Servers come and go while a job runs.

use super::{
    client, collect,
    in_process::{InProcess, settings},
    letter, numbers,
};
use futures::{StreamExt as _, executor::block_on};
use palm_peer::{Bytes, FunctionError, Message, Server};
use palm_tests::{Etcd, Process, eventually, example};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(20);

/// An endless input that ends when it is told to, and counts what it gave.
fn until(stop: &Arc<AtomicUsize>) -> impl Iterator<Item = Bytes> + Send + Unpin + use<> {
    let stop = Arc::clone(stop);
    (0_u64..)
        .take_while(move |_| stop.load(Ordering::Relaxed) == 0)
        .map(|number| Bytes::from(format!("{number}:")))
}

fn counted(name: &'static str, runs: &Arc<AtomicUsize>) -> Server {
    let runs = Arc::clone(runs);
    Server::new(name).function("add", move |message: Message| {
        runs.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, FunctionError>([message.payload(), name.as_bytes()].concat()) }
    })
}

/// Leaving is not failing: no error, and no function runs twice for a message.
#[test]
fn a_rolling_restart_loses_no_message() {
    let etcd = Etcd::start();
    let runs = Arc::new(AtomicUsize::new(0));
    let start = |name| InProcess::start(counted(name, &runs), settings(&etcd));
    let mut servers: Vec<(&str, InProcess)> = ["a", "b", "c", "a", "b", "c"]
        .map(|name| (name, start(name)))
        .into();
    let client = client(&etcd);
    let stop = Arc::new(AtomicUsize::new(0));
    let results = client
        .job(["a.add", "b.add", "c.add"])
        .window(64, 1 << 20)
        .run_iter(until(&stop))
        .expect("there");
    let progress = results.progress();
    let consumer = std::thread::spawn(move || {
        block_on(results.fold(0_u64, |count, (idx, result)| async move {
            assert_eq!(
                (idx, result.expect("leaving is not failing")),
                (count, format!("{idx}:abc").into())
            );
            count + 1
        }))
    });
    for (name, server) in &mut servers {
        let before = progress.done();
        eventually("the job goes on", SOON, || {
            (progress.done() > before + 500).then_some(())
        });
        // The new one is there before the old one leaves; dropping it is an orderly leave.
        drop(std::mem::replace(server, start(name)));
    }
    stop.store(1, Ordering::Relaxed);
    let count = consumer.join().expect("no error");
    assert_eq!(progress.retried(), 0);
    assert_eq!(
        runs.load(Ordering::Relaxed) as u64,
        3 * count,
        "a function ran again for a message"
    );
}

/// A stage without a next instance used to fail its messages, where the client would have waited.
#[test]
fn a_stage_outage_costs_time_but_no_result() {
    let etcd = Etcd::start();
    let start = |name| InProcess::start(letter(name), settings(&etcd));
    let (_first, mut second) = (start("a"), start("b"));
    let client = client(&etcd);
    let stop = Arc::new(AtomicUsize::new(0));
    let results = client
        .job(["a.add", "b.add"])
        .window(64, 1 << 20)
        .run_iter(until(&stop))
        .expect("there");
    let progress = results.progress();
    let consumer = std::thread::spawn(move || collect(results));
    for _ in 0..3 {
        let before = progress.done();
        eventually("the job goes on", SOON, || {
            (progress.done() > before + 200).then_some(())
        });
        second.leave();
        second.ended().expect("it leaves in an orderly way");
        eventually("nobody is there", SOON, || {
            client
                .reachable()
                .iter()
                .all(|found| found.server != "b")
                .then_some(())
        });
        second = start("b");
    }
    stop.store(1, Ordering::Relaxed);
    let results = consumer.join().expect("no panic");
    let failed: Vec<_> = results
        .iter()
        .filter(|(_, result)| result.is_err())
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {} messages failed: {:?}",
        failed.len(),
        results.len(),
        failed[0]
    );
}

/// Each message and call used to wait for the link in its turn, two seconds each, to a server that
/// stands still, until the leader had found that out.
#[test]
fn an_unnoticed_frozen_server_delays_no_job_for_long() {
    let etcd = Etcd::start();
    let start = || {
        let server = Process::builder(example("stage")).arg("run");
        let server = server
            .env("PALM_ETCD", etcd.endpoint())
            .env("PALM_TEST_STAGE", "a")
            .start();
        server.wait_for_line(|line| line.contains(" joined as "), SOON);
        server
    };
    // The first to join leads, and goes on doing so.
    let servers = [(); 3].map(|()| start());
    let (calling, working) = (client(&etcd), client(&etcd));
    servers[1].freeze();
    let frozen = Instant::now();
    let results = collect(
        working
            .job(["a.add", "a.add"])
            .run_iter(numbers(3000))
            .expect("there"),
    );
    assert!(results.len() == 3000 && results.iter().all(|(_, result)| result.is_ok()));
    println!("the job took {:?}", frozen.elapsed());
    let calls = (0..50).map(|_| async {
        calling
            .call("a.add", "x")
            .await
            .expect("one of the others answers")
    });
    block_on(futures::future::join_all(calls));
    println!("the calls ended after {:?}", frozen.elapsed());
    // Then its lease is over, and it is no longer published.
    assert!(
        frozen.elapsed() < Duration::from_secs(10),
        "{:?}",
        frozen.elapsed()
    );
    servers[1].thaw();
}

/// A stage that stood still while the next one left used to send into a connection that had
/// ended, unnoticed.
#[test]
fn a_leaving_server_waits_for_a_frozen_stage() {
    let etcd = Etcd::start();
    let stage = |name| {
        let server = Process::builder(example("stage"));
        let server = server
            .arg("run")
            .env("PALM_ETCD", etcd.endpoint())
            .env("PALM_TEST_STAGE", name)
            .start();
        server.wait_for_line(|line| line.contains(" joined as "), SOON);
        server
    };
    // The first to join leads, and goes on doing so.
    let (_leads, first, leaver) = (stage("b"), stage("a"), stage("b"));
    let client = client(&etcd);
    let stop = Arc::new(AtomicUsize::new(0));
    let timeout = Duration::from_secs(60);
    let job = client
        .job(["a.add", "b.add"])
        .window(200, 1 << 20)
        .timeout(timeout);
    let results = job.run_iter(until(&stop)).expect("there");
    let progress = results.progress();
    let consumer = std::thread::spawn(move || collect(results));
    eventually("the job goes on", SOON, || {
        (progress.done() > 500).then_some(())
    });
    first.freeze();
    leaver.terminate();
    eventually("one instance is left", SOON, || {
        client
            .reachable()
            .iter()
            .any(|r| r.server == "b" && r.instances == 1)
            .then_some(())
    });
    leaver.wait_for_line(|line| line.contains("leaving the mesh"), SOON);
    // Ten times as long as it waits for those that need no waiting.
    std::thread::sleep(Duration::from_secs(1));
    assert!(
        leaver.is_running(),
        "it left while another server could still send to it"
    );
    let (before, start) = (progress.done(), Instant::now());
    first.thaw();
    assert!(leaver.wait(SOON).success());
    eventually("the job goes on", SOON, || {
        (progress.done() > before + 1000).then_some(())
    });
    assert!(
        start.elapsed() < timeout / 3,
        "it went on only when a message was given up"
    );
    stop.store(1, Ordering::Relaxed);
    assert!(
        consumer
            .join()
            .expect("the job ends")
            .iter()
            .all(|(_, result)| result.is_ok())
    );
    assert_eq!(progress.retried(), 0, "leaving is not failing");
}

#[test]
fn killed_and_frozen_servers_cost_attempts_but_no_result() {
    let etcd = Etcd::start();
    let _first = InProcess::start(letter("a"), settings(&etcd));
    let start = || {
        let server = Process::builder(example("printf"))
            .arg("run")
            .env("PALM_ETCD", etcd.endpoint())
            .start();
        let line = server
            .wait_for_line(|line| line.contains(" joined as "), SOON)
            .0;
        (server, line)
    };
    let mut printers: Vec<(Process, String)> = (0..3).map(|_| start()).collect();
    let client = client(&etcd);
    let reachable = |count: usize| {
        eventually("all printers can be reached", SOON, || {
            client
                .reachable()
                .iter()
                .any(|r| r.server == "printf" && r.instances == count)
                .then_some(())
        });
    };
    reachable(3);
    let stop = Arc::new(AtomicUsize::new(0));
    let results = client
        .job(["a.add", "printf.printf", "a.add"])
        .run_iter(until(&stop))
        .expect("there");
    let progress = results.progress();
    let consumer = std::thread::spawn(move || collect(results));
    for _ in 0..4 {
        let before = progress.done();
        eventually("the job goes on", SOON, || {
            (progress.done() > before + 500).then_some(())
        });
        let (killed, _) = printers.remove(0);
        killed.kill();
        printers[0].0.freeze();
        let frozen = progress.done();
        eventually("the others take over", SOON, || {
            (progress.done() > frozen).then_some(())
        });
        printers[0].0.thaw();
        printers.push(start());
        reachable(3);
    }
    stop.store(1, Ordering::Relaxed);
    let results = consumer.join().expect("the job ends");
    for (place, (idx, result)) in results.iter().enumerate() {
        assert_eq!(*idx, place as u64, "each ends once, in order");
        assert_eq!(result.as_ref().expect("no error"), &format!("{idx}:aa"));
    }
    assert_eq!(progress.failed(), 0);
}
