//! The flow of messages: order, windows, routes, errors, nested calls.

use super::{
    client, collect,
    in_process::{InProcess, settings},
    letter, numbers,
};
use futures::{StreamExt as _, executor::block_on, stream};
use palm_peer::{Bytes, CallErrorKind, Client, FunctionError, JobError, Message, Server};
use palm_tests::Etcd;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

#[test]
fn messages_flow_through_all_stages_in_order() {
    let etcd = Etcd::start();
    let _servers = ["a", "b", "c"].map(|name| InProcess::start(letter(name), settings(&etcd)));
    let client = client(&etcd);
    let results = client
        .job(["a.add", "b.add", "c.add", "a.add"])
        .run_iter(numbers(2000))
        .expect("all are there");
    let progress = results.progress();
    for (place, (idx, result)) in collect(results).into_iter().enumerate() {
        assert_eq!(idx, place as u64);
        assert_eq!(result.expect("a result"), format!("{idx}:abca"));
    }
    assert_eq!(
        (
            progress.sent(),
            progress.done(),
            progress.failed(),
            progress.retried()
        ),
        (2000, 2000, 0, 0)
    );
}

#[test]
fn unordered_results_come_as_they_complete() {
    let etcd = Etcd::start();
    let slow_first = Server::new("s").function("wait", async |message: Message| {
        if message.idx() == Some(0) {
            smol::Timer::after(Duration::from_millis(300)).await;
        }
        Ok::<_, FunctionError>(message.into_payload())
    });
    let _server = InProcess::start(slow_first, settings(&etcd));
    let results = collect(
        client(&etcd)
            .job(["s.wait"])
            .unordered()
            .run_iter(numbers(50))
            .expect("there"),
    );
    assert_eq!(results.len(), 50);
    assert_eq!(
        results.last().map(|(idx, _)| *idx),
        Some(0),
        "the slow one comes last"
    );
}

#[test]
fn a_stage_can_be_pinned_to_an_instance() {
    let etcd = Etcd::start();
    let whoami = || {
        Server::new("who").function("am_i", async |message: Message| {
            smol::Timer::after(Duration::from_millis(1)).await;
            message.call("who._ping", "").await?;
            Ok::<_, FunctionError>(message.into_payload())
        })
    };
    let servers = [(); 3].map(|()| InProcess::start(whoami(), settings(&etcd)));
    let client = client(&etcd);
    collect(
        client
            .job(["who.am_i"])
            .run_iter(numbers(300))
            .expect("there"),
    );
    let requests = |inside: &InProcess| {
        let target = format!("{}._ping", inside.peer.uuid());
        let ping = block_on(async { client.call(target, "").await }).expect("a ping");
        serde_json::from_slice::<serde_json::Value>(&ping).expect("JSON")["requests"]
            .as_u64()
            .expect("a number")
    };
    let shares = servers.each_ref().map(requests);
    assert_eq!(shares.iter().sum::<u64>(), 300);
    assert!(shares.iter().all(|share| *share > 30), "{shares:?}");
    let pinned = format!("{}.am_i", servers[1].peer.uuid());
    collect(client.job([pinned]).run_iter(numbers(100)).expect("there"));
    assert_eq!(requests(&servers[1]), shares[1] + 100);
}

#[test]
fn unknown_stages_fail_before_any_input_is_pulled() {
    let etcd = Etcd::start();
    let _server = InProcess::start(letter("a"), settings(&etcd));
    let client = client(&etcd);
    let pulled = Arc::new(AtomicUsize::new(0));
    for (pipeline, kind) in [
        (vec!["a.add", "nobody.f"], CallErrorKind::NoSuchServer),
        (vec!["a.nothing"], CallErrorKind::NoSuchFunction),
        (vec!["a"], CallErrorKind::BadMessage),
        (vec![], CallErrorKind::BadMessage),
    ] {
        let counter = Arc::clone(&pulled);
        let input = numbers(10).inspect(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let error = client
            .job(pipeline)
            .run_iter(input)
            .expect_err("nothing to run it");
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert_eq!(pulled.load(Ordering::Relaxed), 0);
}

#[test]
fn a_slow_consumer_stops_the_input() {
    let etcd = Etcd::start();
    let _server = InProcess::start(letter("a"), settings(&etcd));
    let pulled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&pulled);
    let input = numbers(1000).inspect(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let mut results = client(&etcd)
        .job(["a.add"])
        .window(10, 1 << 20)
        .run_iter(input)
        .expect("there");
    for taken in 1..=1000 {
        block_on(results.next())
            .expect("a result")
            .1
            .expect("no error");
        let ahead = pulled.load(Ordering::Relaxed) - taken;
        assert!(ahead <= 10, "{ahead} messages ahead of the consumer");
    }
    assert_eq!(block_on(results.next()), None);
}

#[test]
fn an_oversized_message_is_refused_alone() {
    let etcd = Etcd::start();
    let _server = InProcess::start(letter("a"), settings(&etcd));
    let options = settings(&etcd).max_payload(10);
    let client = block_on(Client::connect(options)).expect("etcd is there");
    let results = collect(
        client
            .job(["a.add"])
            .run_iter(["x", "0123456789", "01234567890", "y"])
            .expect("there"),
    );
    let ended: Vec<_> = results
        .iter()
        .map(|(_, result)| result.as_ref().map_err(JobError::kind))
        .collect();
    let answers = ["xa", "0123456789a", "ya"].map(Bytes::from);
    assert_eq!(
        ended,
        [
            Ok(&answers[0]),
            Ok(&answers[1]),
            Err(CallErrorKind::TooLarge),
            Ok(&answers[2])
        ]
    );
    let error = results[2].1.as_ref().expect_err("too large");
    assert_eq!((error.stage(), error.server()), (0, None));
}

#[test]
fn a_waiting_input_delays_no_results() {
    let etcd = Etcd::start();
    let _server = InProcess::start(letter("a"), settings(&etcd));
    let (feed, input) = futures::channel::mpsc::unbounded::<Bytes>();
    let mut results = client(&etcd).job(["a.add"]).run(input).expect("there");
    for number in 0..20 {
        feed.unbounded_send(format!("{number}:").into())
            .expect("the job pulls");
        let (idx, result) = block_on(results.next()).expect("a result");
        assert_eq!(
            (idx, result.expect("no error")),
            (number, format!("{number}:a").into())
        );
    }
    drop(feed);
    assert_eq!(block_on(results.next()), None);
}

/// A stage that fails in the way that its message asks for.
fn picky(name: &'static str) -> Server {
    Server::new(name).function("f", move |message: Message| async move {
        let text = std::str::from_utf8(message.payload())?.to_owned();
        match text.strip_prefix(name) {
            Some("fail") => Err(FunctionError::from("on purpose")),
            Some("panic") => panic!("on purpose"),
            Some("large") => Ok(Bytes::from(vec![0; 3000])),
            Some("hang") => futures::future::pending().await,
            _ => Ok(message.into_payload()),
        }
    })
}

#[test]
fn every_error_reaches_the_client_from_every_stage() {
    let etcd = Etcd::start();
    let names = ["a", "b", "c"];
    let small = |etcd: &Etcd| settings(etcd).max_payload(2000);
    let servers = names.map(|name| InProcess::start(picky(name), small(&etcd)));
    let client = client(&etcd);
    let asked: Vec<_> = names
        .iter()
        .enumerate()
        .flat_map(|(stage, name)| {
            [
                ("fail", CallErrorKind::Failed),
                ("panic", CallErrorKind::Panicked),
                ("large", CallErrorKind::TooLarge),
                ("hang", CallErrorKind::TimedOut),
            ]
            .map(|(how, kind)| (stage, format!("{name}{how}"), kind))
        })
        .collect();
    let input: Vec<_> = asked.iter().map(|(_, text, _)| text.clone()).collect();
    let job = client
        .job(["a.f", "b.f", "c.f"])
        // A panic prints a backtrace, which takes a second or more on a busy machine.
        .timeout(Duration::from_secs(8))
        .attempts(1);
    let results = collect(job.run(stream::iter(input)).expect("all are there"));
    for ((stage, text, kind), (_, result)) in asked.iter().zip(results) {
        let error = result.expect_err(text);
        assert_eq!(error.kind(), *kind, "{text}: {error}");
        // The client does not know which server hangs.
        if *kind != CallErrorKind::TimedOut {
            assert_eq!(
                (error.stage(), error.server()),
                (*stage, Some(servers[*stage].peer.uuid())),
                "{text}: {error}"
            );
        }
    }
}

#[test]
fn a_function_can_call_others_within_its_own_deadline() {
    let etcd = Etcd::start();
    let _add = InProcess::start(letter("a"), settings(&etcd));
    let outer = Server::new("outer")
        .function("twice", async |message: Message| {
            let once = message.call("a.add", message.payload().clone()).await?;
            Ok::<_, FunctionError>(message.call("a.add", once).await?)
        })
        .function("hang", async |message: Message| {
            Ok::<_, FunctionError>(message.call("outer.never", "").await?)
        })
        .function("never", async |_: Message| {
            futures::future::pending::<()>().await;
            Ok::<_, FunctionError>("")
        });
    let _outer = InProcess::start(outer, settings(&etcd));
    let client = client(&etcd);
    assert_eq!(
        block_on(async { client.call("outer.twice", "x").await }).expect("both"),
        "xaa"
    );
    let start = Instant::now();
    let error = block_on(async {
        client
            .call("outer.hang", "x")
            .timeout(Duration::from_millis(400))
            .await
    });
    // Either the outer function is given up first, or it passes on that the inner one was.
    let kind = error.expect_err("it hangs").kind();
    assert!(
        matches!(kind, CallErrorKind::TimedOut | CallErrorKind::Failed),
        "{kind}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "the inner call outlived the outer one's deadline"
    );
}

/// Each stage, and each call from within one, has what is left of the time.
#[test]
fn deadlines_travel_from_stage_to_stage_and_into_calls() {
    const TIME: Duration = Duration::from_secs(20);
    const PAUSE: Duration = Duration::from_millis(500);
    fn left(message: &Message) -> String {
        message
            .deadline()
            .saturating_duration_since(Instant::now())
            .as_millis()
            .to_string()
    }
    let etcd = Etcd::start();
    let slow = Server::new("slow").function("pause", async |message: Message| {
        smol::Timer::after(PAUSE).await;
        Ok::<_, FunctionError>(message.into_payload())
    });
    let clock = Server::new("clock")
        .function("left", async |message: Message| {
            Ok::<_, FunctionError>(left(&message))
        })
        .function("both", async |message: Message| {
            smol::Timer::after(PAUSE).await;
            let inner = message.call("clock.left", "").await?;
            Ok::<_, FunctionError>([left(&message).as_bytes(), b" ", &inner].concat())
        });
    let _servers = [
        InProcess::start(slow, settings(&etcd)),
        InProcess::start(clock, settings(&etcd)),
    ];
    let job = client(&etcd)
        .job(["slow.pause", "slow.pause", "clock.both"])
        .timeout(TIME);
    let results = collect(job.run_iter(["x"]).expect("there"));
    let text = String::from_utf8(results[0].1.as_ref().expect("a result").to_vec()).expect("text");
    let left: Vec<Duration> = text
        .split(' ')
        .map(|ms| Duration::from_millis(ms.parse().expect("a number")))
        .collect();
    for left in &left {
        assert!(
            *left + 3 * PAUSE <= TIME,
            "more than there can be left: {text}"
        );
        assert!(*left > TIME / 4, "less than there must be left: {text}");
    }
}

#[test]
fn progress_counts_messages_and_rates() {
    let etcd = Etcd::start();
    let _server = InProcess::start(picky("a"), settings(&etcd));
    let input = (0..100).map(|number| if number % 4 == 0 { "afail" } else { "fine" });
    let mut results = client(&etcd)
        .job(["a.f"])
        .window(10, 1 << 20)
        .run_iter(input)
        .expect("there");
    let progress = results.progress();
    assert_eq!(
        (
            progress.sent(),
            progress.done(),
            progress.failed(),
            progress.retried()
        ),
        (0, 0, 0, 0)
    );
    for taken in 1..=100 {
        let _ = block_on(results.next()).expect("a message").1;
        assert!(
            progress.sent() <= taken + 10 && progress.done() + progress.failed() >= taken,
            "{progress:?}"
        );
        assert!(progress.rate() > 0.0, "{progress:?}");
    }
    assert_eq!(block_on(results.next()), None);
    assert_eq!(
        (
            progress.sent(),
            progress.done(),
            progress.failed(),
            progress.retried()
        ),
        (100, 75, 25, 0)
    );
}

/// A server with few places; what waits for one takes turns between clients.
#[test]
fn a_flood_does_not_starve_another_clients_call() {
    let etcd = Etcd::start();
    let slow = Server::new("slow").function("wait", async |message: Message| {
        smol::Timer::after(Duration::from_millis(5)).await;
        Ok::<_, FunctionError>(message.into_payload())
    });
    let few = settings(&etcd).max_in_flight(4);
    let _server = InProcess::start(slow, few);
    let flooding = client(&etcd);
    let mut flood = flooding
        .job(["slow.wait"])
        .window(2000, 1 << 20)
        .run_iter(numbers(2000))
        .expect("there");
    block_on(flood.next())
        .expect("a result")
        .1
        .expect("no error");
    let progress = flood.progress();
    let consumer = std::thread::spawn(move || collect(flood));
    let other = client(&etcd);
    for _ in 0..10 {
        block_on(async { other.call("slow.wait", "me").await }).expect("an answer");
    }
    // In the order of arrival, the first of these calls would have waited for nearly
    // all of the flood.
    assert!(
        progress.done() < 1000,
        "{} of the flood went before ten single calls",
        progress.done()
    );
    assert!(
        consumer
            .join()
            .expect("the job ends")
            .iter()
            .all(|(_, result)| result.is_ok())
    );
}
