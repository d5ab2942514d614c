//! Overload, deadlines and draining.

use std::time::{Duration, Instant};

use futures::{
    StreamExt as _,
    channel::{mpsc, oneshot},
    executor::block_on,
    future::join,
};
use palm_peer::{CallErrorKind, Config, FunctionError, Message, Server};
use palm_tests::{Etcd, eventually};
use serde_json::{Value, json};

use crate::in_process::{InProcess, SOON, Stranger, call, client, echo, sees, settings};

/// The other end of functions that wait until they are let go.
struct Gate(mpsc::UnboundedReceiver<oneshot::Sender<()>>);

impl Gate {
    /// A server whose function `waits` runs until its gate lets it go, and answers the first
    /// byte of its payload.
    fn server() -> (Self, Server) {
        let (tell, running) = mpsc::unbounded();
        let waits = move |message: Message| {
            let (go, gone) = oneshot::channel();
            let told = tell.unbounded_send(go);
            async move {
                told?;
                // Released, by a message or because the gate was dropped.
                let _ = gone.await;
                let payload = message.into_payload();
                Ok::<_, FunctionError>(payload.slice(..payload.len().min(1)))
            }
        };
        (
            Self(running),
            Server::new("zoo")
                .function("waits", waits)
                .function("echo", echo),
        )
    }

    /// Waits until one runs; dropping what this gives lets it go.
    fn one(&mut self) -> oneshot::Sender<()> {
        block_on(async_std::future::timeout(SOON, self.0.next()))
            .expect("a function runs")
            .expect("the server lives")
    }

    fn nobody_waits(&mut self) -> bool {
        self.0.try_recv().is_err()
    }
}

/// One at once, and one more in the queue.
fn narrow(etcd: &Etcd) -> Config {
    settings(etcd).max_in_flight(1).max_queued(1)
}

fn request(idx: u64, more: &Value) -> String {
    let mut header = json!({"palm": 1, "pipeline": ["zoo.waits"], "idx": idx});
    header
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().cloned().unwrap_or_default());
    header.to_string()
}

fn is_error(answer: &Value, idx: u64, kind: &str) -> bool {
    answer["idx"] == idx && answer["error"]["kind"] == kind
}

#[test]
fn a_server_with_a_full_queue_answers_busy() {
    let etcd = Etcd::start();
    let (mut gate, server) = Gate::server();
    let server = InProcess::start(server, narrow(&etcd));
    let mut stranger = Stranger::at(server.peer.endpoint());
    for idx in 0..4 {
        stranger.say([request(idx, &Value::Null).as_str(), "x"]);
    }
    let first = gate.one();
    for idx in [2, 3] {
        let (answer, _) = stranger.answer();
        assert!(is_error(&answer, idx, "busy"), "{answer}");
    }
    let (answer, payload) = stranger.ask([r#"{"palm":1,"pipeline":["zoo._ping"]}"#]);
    assert!(
        answer["error"].is_null() && !payload.is_empty(),
        "a busy server answers pings: {answer}"
    );
    drop(first);
    assert_eq!(stranger.answer().0["idx"], 0);
    drop(gate.one());
    let (answer, payload) = stranger.answer();
    assert!(
        answer["idx"] == 1 && answer["error"].is_null() && payload == "x",
        "{answer}"
    );
    assert!(gate.nobody_waits(), "what was refused did not run");
    stranger.say([request(4, &Value::Null)]);
    drop(gate.one());
    assert_eq!(stranger.answer().0["idx"], 4, "then it is as before");
}

#[test]
fn requests_over_the_byte_limit_wait_for_running_ones() {
    let etcd = Etcd::start();
    let (mut gate, server) = Gate::server();
    let settings = settings(&etcd).max_payload(100_000).max_held(100_000);
    let server = InProcess::start(server, settings);
    let mut stranger = Stranger::at(server.peer.endpoint());
    let payload = "x".repeat(60_000);
    for idx in 0..3 {
        stranger.say([request(idx, &Value::Null).as_str(), &payload]);
    }
    let (first, second) = (gate.one(), gate.one());
    let (_, ping) = stranger.ask([r#"{"palm":1,"pipeline":["zoo._ping"]}"#]);
    let ping: Value = serde_json::from_slice(&ping).unwrap();
    assert_eq!([&ping["in_flight"], &ping["queued"]], [2, 1], "{ping}");
    assert!(gate.nobody_waits(), "the third waits for one of the first");
    drop(first);
    assert_eq!(stranger.answer().0["idx"], 0);
    drop(gate.one());
    assert_eq!(stranger.answer().0["idx"], 2);
    drop(second);
    assert_eq!(stranger.answer().0["idx"], 1);
}

#[test]
fn a_busy_server_is_avoided_until_all_are_busy() {
    let etcd = Etcd::start();
    let (mut gate, server) = Gate::server();
    let first = InProcess::start(server, narrow(&etcd));
    let (mut other_gate, other) = Gate::server();
    let second = InProcess::start(other, narrow(&etcd));
    let client = client(settings(&etcd), "zoo", 2);
    // Fills the first by its uuid.
    let target = format!("{}.waits", first.peer.uuid());
    let blocked = join(async { client.call(&*target, "1").await }, async {
        client.call(&*target, "2").await
    });
    let answers = std::thread::scope(|scope| {
        let blocked = scope.spawn(move || block_on(blocked));
        let one = gate.one();
        for round in 0..20 {
            let elsewhere = call(&client, "zoo.echo", "x");
            assert_eq!(
                elsewhere.expect("one of them is free"),
                "x",
                "round {round}"
            );
        }
        // All are busy: the call waits for one of them, within its deadline, which leaves a busy
        // machine the time to say so.
        let target = format!("{}.echo", first.peer.uuid());
        let error = block_on(async {
            client
                .call(&*target, "")
                .timeout(Duration::from_secs(2))
                .await
        });
        assert_eq!(error.expect_err("full").kind(), CallErrorKind::Busy);
        let patient =
            scope.spawn(|| call(&client, &format!("{}.echo", first.peer.uuid()), "patient"));
        drop(one);
        drop(gate.one());
        assert_eq!(
            patient.join().unwrap().expect("once there is room"),
            "patient"
        );
        blocked.join().unwrap()
    });
    assert!(answers.0.is_ok() && answers.1.is_ok(), "{answers:?}");
    assert!(other_gate.nobody_waits());
    drop(second);
}

#[test]
fn a_leaving_server_drains_and_refuses_new_requests() {
    let etcd = Etcd::start();
    let (mut gate, server) = Gate::server();
    let mut server = InProcess::start(server, narrow(&etcd));
    let client = client(settings(&etcd), "zoo", 1);
    let mut stranger = Stranger::at(server.peer.endpoint());
    for idx in 0..2 {
        stranger.say([request(idx, &Value::Null).as_str(), "x"]);
    }
    let first = gate.one();
    // What came before it was taken in.
    stranger.ask([r#"{"palm":1,"pipeline":["zoo._ping"]}"#]);
    server.leave();
    sees(&client, "zoo", 0);
    let error = call(&client, "zoo.waits", "").expect_err("gone");
    assert_eq!(error.kind(), CallErrorKind::NoSuchServer, "{error}");
    // Out of the mesh a moment before it refuses work: until then the queue is full.
    let kind = eventually("the server says that it leaves", SOON, || {
        let (answer, _) = stranger.ask([request(9, &Value::Null)]);
        let kind = answer["error"]["kind"]
            .as_str()
            .expect("an error")
            .to_owned();
        (kind != "busy").then_some(kind)
    });
    assert_eq!(kind, "leaving");
    drop(first);
    assert_eq!(stranger.answer().0["idx"], 0, "what ran is finished");
    drop(gate.one());
    let (answer, payload) = stranger.answer();
    assert!(
        answer["idx"] == 1 && answer["error"].is_null() && payload == "x",
        "what waited too: {answer}"
    );
    server.ended().expect("an orderly end");
}

#[test]
fn a_drain_ends_despite_a_hanging_function() {
    let etcd = Etcd::start();
    let (mut gate, server) = Gate::server();
    let options = settings(&etcd).drain(Duration::from_millis(300));
    let mut server = InProcess::start(server, options);
    let mut stranger = Stranger::at(server.peer.endpoint());
    stranger.say([request(0, &Value::Null)]);
    let running = gate.one();
    let start = Instant::now();
    server.leave();
    server.ended().expect("an orderly end");
    assert!(
        start.elapsed() >= Duration::from_millis(300),
        "{:?}",
        start.elapsed()
    );
    let (answer, _) = stranger.answer();
    assert!(is_error(&answer, 0, "unreachable"), "{answer}");
    assert!(running.is_canceled(), "the function was stopped");
}

#[test]
fn a_missed_deadline_leaves_the_server_running() {
    let etcd = Etcd::start();
    let (mut gate, server) = Gate::server();
    let server = InProcess::start(server, settings(&etcd));
    let mut stranger = Stranger::at(server.peer.endpoint());
    stranger.say([request(0, &json!({"timeout_ms": 100}))]);
    let running = gate.one();
    assert!(is_error(&stranger.answer().0, 0, "timed_out"));
    assert!(running.is_canceled(), "the function was dropped");
    // More than a server will wait is as much as it will wait.
    stranger.say([request(1, &json!({"timeout_ms": u64::MAX}))]);
    drop(gate.one());
    let (answer, _) = stranger.answer();
    assert!(answer["idx"] == 1 && answer["error"].is_null(), "{answer}");
}

/// A request used to run after its time in the queue, though its sender had long stopped waiting;
/// and then to keep its place there until its turn came.
#[test]
fn an_expired_queued_request_is_not_run() {
    let etcd = Etcd::start();
    let (mut gate, server) = Gate::server();
    let server = InProcess::start(server, narrow(&etcd));
    let mut stranger = Stranger::at(server.peer.endpoint());
    stranger.say([request(0, &Value::Null)]);
    let first = gate.one();
    stranger.say([request(1, &json!({"timeout_ms": 50}))]);
    let (answer, _) = stranger.answer();
    assert!(is_error(&answer, 1, "timed_out"), "{answer}");
    // Once a third is refused, the second waits in the place of the one before.
    stranger.say([request(2, &Value::Null)]);
    assert!(is_error(
        &stranger.ask([request(3, &Value::Null)]).0,
        3,
        "busy"
    ));
    drop(first);
    assert_eq!(stranger.answer().0["idx"], 0);
    drop(gate.one());
    assert_eq!(stranger.answer().0["idx"], 2);
    let (answer, _) = stranger.ask([request(4, &json!({"timeout_ms": 0}))]);
    assert!(
        is_error(&answer, 4, "timed_out"),
        "no time at all is too little: {answer}"
    );
    assert!(gate.nobody_waits(), "nothing else ran");
}

/// An `Instant` cannot hold what this adds to it.
#[test]
fn the_longest_timeout_is_accepted() {
    let etcd = Etcd::start();
    let (_gate, server) = Gate::server();
    let _server = InProcess::start(server, settings(&etcd));
    let client = client(settings(&etcd), "zoo", 1);
    let answer = block_on(
        client
            .call("zoo.echo", "x")
            .timeout(Duration::MAX)
            .into_future(),
    );
    assert_eq!(answer.expect("an answer"), "x");
    let results = client
        .job(["zoo.echo"])
        .timeout(Duration::MAX)
        .run_iter(["y"])
        .expect("it is there");
    let results: Vec<_> = block_on(results.collect());
    assert!(
        matches!(&results[..], [(0, Ok(answer))] if answer == "y"),
        "{results:?}"
    );
}
