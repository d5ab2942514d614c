//! Every kind of error, at the first, the middle and the last stage, with the stage and the
//! server that say so.

use super::{
    client, collect,
    in_process::{InProcess, SOON, Stranger, echo, settings},
};
use crate::common::await_joined;
use futures::executor::block_on;
use palm_peer::{CallErrorKind, Config, FunctionError, Message, Server};
use palm_tests::{Etcd, Process, eventually, example};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

const CLIENT: &str = "00000000-0000-4000-8000-000000000007";
const NAMES: [&str; 3] = ["a", "b", "c"];

/// A server that can fail in many ways.
fn frail(name: &str) -> Server {
    Server::new(name)
        .function("echo", echo)
        .function("fail", async |_: Message| {
            Err::<&str, _>(FunctionError::from("on purpose"))
        })
        .function(
            "panic",
            async |message: Message| -> Result<&str, FunctionError> {
                assert!(message.payload().is_empty(), "on purpose");
                Ok("")
            },
        )
        .function("large", async |_: Message| {
            Ok::<_, FunctionError>(vec![0; 3000])
        })
        .function("hang", async |_: Message| {
            futures::future::pending::<()>().await;
            Ok::<_, FunctionError>("")
        })
}

fn small(etcd: &Etcd) -> Config {
    settings(etcd).max_payload(2000).max_store(10)
}

/// What a function is to be called for it to fail so, where it is the server itself that says so.
const BY_THE_SERVER: [(&str, CallErrorKind); 8] = [
    ("fail", CallErrorKind::Failed),
    ("panic", CallErrorKind::Panicked),
    ("large", CallErrorKind::TooLarge),
    ("nothing", CallErrorKind::NoSuchFunction),
    ("_log_query", CallErrorKind::BadMessage),
    ("set", CallErrorKind::Full),
    ("get", CallErrorKind::NoSuchKey),
    ("hang", CallErrorKind::TimedOut),
];

/// The pipeline that echoes at all stages but one.
fn pipeline(stage: usize, target: &str) -> [String; 3] {
    let mut pipeline = NAMES.map(|name| format!("{name}.echo"));
    target.clone_into(&mut pipeline[stage]);
    pipeline
}

#[test]
fn a_job_error_names_the_stage_and_server() {
    let etcd = Etcd::start();
    let servers = NAMES.map(|name| InProcess::start(frail(name), small(&etcd)));
    let client = client(&etcd);
    for (stage, name) in NAMES.iter().enumerate() {
        for (function, kind) in BY_THE_SERVER {
            // These two end at the client: it knows what there is, and its own
            // deadline comes first.
            if matches!(
                kind,
                CallErrorKind::NoSuchFunction | CallErrorKind::TimedOut
            ) {
                continue;
            }
            let job = client.job(pipeline(stage, &format!("{name}.{function}")));
            let results = collect(job.run_iter(["more than ten bytes"]).expect("there"));
            let error = results[0].1.as_ref().expect_err(function);
            let expected = (kind, stage, Some(servers[stage].peer.uuid()));
            assert_eq!(
                (error.kind(), error.stage(), error.server()),
                expected,
                "{function}: {error}"
            );
        }
    }
}

/// A program that knows the protocol alone, with a connection to each of the servers.
struct Raw {
    links: [Stranger; 3],
    route: [Uuid; 3],
}

impl Raw {
    fn greet(servers: &[InProcess; 3]) -> Self {
        let mut links = servers
            .each_ref()
            .map(|server| Stranger::at(server.peer.endpoint()));
        for link in &mut links {
            link.ask([json!({"palm": 1, "hello": CLIENT}).to_string()]);
        }
        Self {
            links,
            route: servers.each_ref().map(|server| server.peer.uuid()),
        }
    }

    fn say(&mut self, pipeline: &[String; 3], route: [Uuid; 3]) {
        let header = json!({
            "palm": 1, "pipeline": pipeline, "route": route, "client": CLIENT, "job": CLIENT, "idx": 7, "timeout_ms": 700
        });
        self.links[0].say([header.to_string().as_str(), "more than ten bytes"]);
    }

    /// The error that comes over the connection to this server.
    fn error_from(&mut self, stage: usize) -> Value {
        let (answer, payload) = self.links[stage].answer();
        assert!(payload.is_empty() && answer["idx"] == 7, "{answer}");
        answer
    }
}

#[test]
fn every_error_kind_follows_the_protocol_at_every_stage() {
    let etcd = Etcd::start();
    let servers = NAMES.map(|name| InProcess::start(frail(name), small(&etcd)));
    let mut raw = Raw::greet(&servers);
    let route = raw.route;
    let text = |kind: CallErrorKind| kind.to_string();
    for (stage, name) in NAMES.iter().enumerate() {
        let mut at_the_stage: Vec<(String, String)> = BY_THE_SERVER
            .map(|(function, kind)| (format!("{name}.{function}"), text(kind)))
            .into();
        at_the_stage.push(("another.echo".into(), text(CallErrorKind::WrongServer)));
        for (target, kind) in at_the_stage {
            raw.say(&pipeline(stage, &target), route);
            let answer = raw.error_from(stage);
            let expected = (&json!(kind), &json!(stage), &json!(route[stage]));
            assert_eq!(
                (
                    &answer["error"]["kind"],
                    &answer["stage"],
                    &answer["server"]
                ),
                expected,
                "{target}: {answer}"
            );
        }
        // The unreachable server cannot report it: the stage before does.
        let Some(before) = stage.checked_sub(1) else {
            continue;
        };
        let mut elsewhere = route;
        elsewhere[stage] = Uuid::new_v4();
        for (target, kind) in [
            ("nobody.echo".to_owned(), CallErrorKind::NoSuchServer),
            (
                format!("{}.echo", elsewhere[stage]),
                CallErrorKind::NoSuchServer,
            ),
        ] {
            raw.say(&pipeline(stage, &target), elsewhere);
            let answer = raw.error_from(before);
            let expected = (&json!(text(kind)), &json!(before), &json!(route[before]));
            assert_eq!(
                (
                    &answer["error"]["kind"],
                    &answer["stage"],
                    &answer["server"]
                ),
                expected,
                "{target}: {answer}"
            );
        }
    }
}

#[test]
fn a_stage_that_stays_busy_is_named() {
    let etcd = Etcd::start();
    let narrow = || {
        settings(&etcd)
            .max_in_flight(1)
            .max_queued(1)
            .drain(Duration::from_millis(100))
    };
    let servers = NAMES.map(|name| InProcess::start(frail(name), narrow()));
    let client = client(&etcd);
    // The last one first: messages must get there.
    for (stage, server) in servers.iter().enumerate().rev() {
        // One runs, one waits, and a third has no place.
        let mut stranger = Stranger::at(server.peer.endpoint());
        let header = json!({"palm": 1, "pipeline": [format!("{}.hang", NAMES[stage])], "timeout_ms": 60_000});
        for _ in 0..3 {
            stranger.say([header.to_string()]);
        }
        assert_eq!(stranger.answer().0["error"]["kind"], "busy");
        let job = client
            .job(NAMES.map(|name| format!("{name}.echo")))
            .timeout(Duration::from_secs(2));
        let results = collect(job.run_iter(["x"]).expect("there"));
        let error = results[0].1.as_ref().expect_err("there is no place");
        let expected = (CallErrorKind::Busy, stage, Some(server.peer.uuid()));
        assert_eq!(
            (error.kind(), error.stage(), error.server()),
            expected,
            "{error}"
        );
    }
}

#[test]
fn a_stage_whose_server_died_with_the_message_is_named() {
    let etcd = Etcd::start();
    let start = |name| {
        let server = Process::builder(example("stage")).arg("run");
        let server = server
            .env("PALM_ETCD", etcd.endpoint())
            .env("PALM_TEST_STAGE", name)
            .start();
        let [uuid, _] = await_joined(&server);
        (server, uuid.parse::<Uuid>().expect("a uuid"))
    };
    for stage in 0..NAMES.len() {
        let servers = NAMES.map(start);
        let client = super::client(&etcd);
        let (server, uuid) = &servers[stage];
        let mut pipeline = NAMES.map(|name| format!("{name}.add"));
        pipeline[stage] = format!("{uuid}.hang");
        let job = client
            .job(pipeline)
            .timeout(Duration::from_secs(6))
            .attempts(1);
        let results = job.run_iter(["x"]).expect("there");
        let consumer = std::thread::spawn(move || collect(results));
        eventually("the message is there", SOON, || {
            let ping =
                block_on(async { client.call(format!("{uuid}._ping"), "").await }).expect("a ping");
            (serde_json::from_slice::<Value>(&ping).expect("JSON")["in_flight"] == 1).then_some(())
        });
        server.kill();
        let results = consumer.join().expect("the job ends");
        let error = results[0].1.as_ref().expect_err("nobody is there");
        let expected = (CallErrorKind::Unreachable, stage, Some(*uuid));
        assert_eq!(
            (error.kind(), error.stage(), error.server()),
            expected,
            "{error}"
        );
        for (server, _) in &servers {
            server.terminate();
        }
        let gone = || {
            etcd.etcdctl(&["get", "--prefix", "--keys-only", "/servers/"])
                .is_empty()
                .then_some(())
        };
        eventually("nobody is registered", SOON, gone);
    }
}

/// At the first stage a leaving server says so. What comes from another stage it passes on, and
/// says whether it could.
#[test]
fn a_leaving_server_names_itself() {
    let etcd = Etcd::start();
    let mut server = InProcess::start(frail("a"), settings(&etcd));
    let uuid = server.peer.uuid();
    let mut stranger = Stranger::at(server.peer.endpoint());
    stranger.ask([json!({"palm": 1, "hello": CLIENT}).to_string()]);
    // It leaves once this has ended.
    stranger.say([json!({"palm": 1, "pipeline": ["a.hang"], "timeout_ms": 60_000}).to_string()]);
    let echo = json!({"palm": 1, "pipeline": ["a.echo"]}).to_string();
    let (answer, _) = stranger.ask([&echo]);
    assert!(
        answer["error"].is_null(),
        "what came before it runs, too: {answer}"
    );
    server.leave();
    eventually("it says that it is leaving", SOON, || {
        let (answer, _) = stranger.ask([&echo]);
        assert_eq!(
            (&answer["server"], &answer["stage"]),
            (&json!(uuid), &json!(0)),
            "{answer}"
        );
        (answer["error"]["kind"] == "leaving").then_some(())
    });
    let header = json!({
        "palm": 1, "pipeline": ["a.echo", "a.echo"], "stage": 1, "route": [uuid, uuid], "client": CLIENT, "idx": 1
    });
    let (answer, _) = stranger.ask([header.to_string()]);
    assert_eq!(
        (&answer["server"], &answer["stage"]),
        (&json!(uuid), &json!(1)),
        "{answer}"
    );
    let kind = answer["error"]["kind"]
        .as_str()
        .expect("there is nobody else");
    assert!(
        ["unreachable", "no_such_server"].contains(&kind),
        "{answer}"
    );
}
