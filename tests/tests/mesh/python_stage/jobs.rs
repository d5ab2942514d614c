//! Jobs through servers in Rust and in Python.

use super::start;
use crate::common::{Mesh, Server};
use futures::{StreamExt as _, executor::block_on};
use palm_peer::{Bytes, CallError, CallErrorKind, Client, JobError, JobResults};
use palm_tests::{Etcd, Process, eventually, example, python};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Servers that nobody removes because a busy machine lets them wait.
const SETTINGS: [&str; 6] = ["--ttl", "10", "--probe-period", "5", "--probe-timeout", "5"];
const SOON: Duration = Duration::from_secs(60);
/// As long as a job with a server that is killed amid it may take here.
const PATIENCE: Duration = Duration::from_secs(60);

type Ended = Vec<(u64, Result<Bytes, JobError>)>;

/// A mesh with the stages `a` and `b` in Rust, and some in Python.
struct World<'a> {
    mesh: Mesh<'a>,
    python: &'a Path,
    etcd: &'a Etcd,
    rust: Vec<Server>,
    pytext: Vec<Server>,
}

impl<'a> World<'a> {
    fn start(etcd: &'a Etcd, python: &'a Path, count: usize) -> Self {
        let mesh = Mesh::new(etcd, "", &SETTINGS);
        let rust: Vec<Server> = ["a", "b"].map(|name| Self::stage(&mesh, etcd, name)).into();
        let pytext = (0..count)
            .map(|_| start(&mesh, python, &etcd.endpoint()))
            .collect();
        mesh.await_published(
            &rust
                .iter()
                .map(|server| server.uuid.as_str())
                .collect::<Vec<_>>(),
        );
        Self {
            mesh,
            python,
            etcd,
            rust,
            pytext,
        }
    }

    fn stage(mesh: &Mesh, etcd: &Etcd, name: &str) -> Server {
        let program = Process::builder(example("stage"))
            .args(["run", "--etcd", &etcd.endpoint()])
            .args(SETTINGS);
        mesh.start_program(program.env("PALM_TEST_STAGE", name))
    }

    fn one_more(&mut self) {
        self.pytext
            .push(start(&self.mesh, self.python, &self.etcd.endpoint()));
    }

    fn client(&self) -> Client {
        let client = block_on(Client::connect(self.mesh.options())).expect("a client");
        eventually("the client sees all servers", SOON, || {
            let seen: usize = client
                .reachable()
                .iter()
                .map(|server| server.instances)
                .sum();
            (seen == 2 + self.pytext.len()).then_some(())
        });
        client
    }
}

fn collect(results: JobResults) -> Ended {
    block_on(results.collect())
}

#[test]
fn rust_and_python_stages_mix_in_any_order() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let world = World::start(&etcd, &python, 2);
    let client = world.client();
    let pinned = format!("{}.reverse", world.pytext[0].uuid);
    for (pipeline, before, after) in [
        (vec!["a.add", "pytext.reverse", "b.add"], "a", "b"),
        (vec!["pytext.reverse", "a.add", "pytext.reverse"], "a", ""),
        (vec!["a.add", "pytext.reverse"], "a", ""),
        (vec!["pytext.reverse", "b.add"], "", "b"),
        (
            vec![
                "pytext.reverse",
                "pytext.reverse",
                &pinned,
                "pytext.reverse",
                "pytext.reverse",
            ],
            "",
            "",
        ),
        (vec!["a.add", &pinned, "b.add"], "a", "b"),
    ] {
        let words = |idx: u64| format!("word {idx}");
        let input = (0..2000).map(move |idx| Bytes::from(words(idx)));
        let job = client.job(pipeline.clone()).timeout(4 * PATIENCE);
        let results = job.run_iter(input).expect("there");
        let progress = results.progress();
        for (place, (idx, result)) in collect(results).into_iter().enumerate() {
            assert_eq!(idx, place as u64, "{pipeline:?}");
            let reversed: String = words(idx).chars().rev().collect();
            let wanted = if pipeline[0] == "pytext.reverse" && before == "a" {
                format!("a{}", words(idx))
            } else {
                format!("{before}{reversed}{after}")
            };
            assert_eq!(
                result.unwrap_or_else(|error| panic!("{pipeline:?}: {error}")),
                wanted,
                "{pipeline:?}"
            );
        }
        assert_eq!(
            progress.retried(),
            0,
            "{pipeline:?}: a message or its answer was lost"
        );
    }
}

#[test]
fn a_python_exception_reaches_the_client_with_stage_and_uuid() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let world = World::start(&etcd, &python, 1);
    let (client, uuid) = (world.client(), world.pytext[0].uuid.clone());
    for (pipeline, stage) in [
        (vec!["pytext.double", "a.add", "b.add"], 0),
        (vec!["pytext.reverse", "pytext.double", "a.add"], 1),
        (vec!["a.add", "b.add", "pytext.double"], 2),
    ] {
        let results = client
            .job(pipeline.clone())
            .run_iter(["x"].into_iter().map(Bytes::from))
            .expect("there");
        let error = collect(results).remove(0).1.expect_err("x is no number");
        assert_eq!(error.kind(), CallErrorKind::Failed, "{error}");
        assert!(
            error
                .message()
                .starts_with("ValueError: invalid literal for int()"),
            "{error}"
        );
        assert_eq!(
            (
                error.stage(),
                error.server().map(|server| server.to_string())
            ),
            (stage, Some(uuid.clone()))
        );
    }
    let error = block_on(client.call("pytext.double", "x").into_future()).expect_err("no number");
    assert_eq!(
        (error.kind(), error.server().map(|s| s.to_string())),
        (CallErrorKind::Failed, Some(uuid))
    );
    assert_eq!(
        block_on(client.call("pytext.double", "21").into_future())
            .map_err(|e: CallError| e.to_string()),
        Ok("42".into())
    );
}

/// An endless job from `a` over Python to `b`, until it is told to stop.
struct Endless {
    stop: Arc<AtomicBool>,
    progress: palm_peer::Progress,
    consumer: JoinHandle<Ended>,
}

impl Endless {
    /// Each message may take `time`, a third of it for each attempt.
    fn start(client: &Client, time: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let input = (0_u64..)
            .take_while(move |_| !stopped.load(Ordering::Relaxed))
            .map(|number| Bytes::from(format!("{number:06}")));
        let job = client
            .job(["a.add", "pytext.reverse", "b.add"])
            .timeout(time)
            .attempts(5);
        let results = job.run_iter(input).expect("there");
        let progress = results.progress();
        Self {
            stop,
            progress,
            consumer: std::thread::spawn(move || collect(results)),
        }
    }

    fn goes_on(&self) {
        let before = self.progress.done();
        eventually("the job goes on", PATIENCE, || {
            (self.progress.done() > before + 300).then_some(())
        });
    }

    /// Every message has its one result.
    fn all_is_right(self) -> palm_peer::Progress {
        self.stop.store(true, Ordering::Relaxed);
        for (place, (idx, result)) in self
            .consumer
            .join()
            .expect("no panic")
            .into_iter()
            .enumerate()
        {
            assert_eq!(idx, place as u64, "each ends once, in order");
            let number: String = format!("{idx:06}").chars().rev().collect();
            assert_eq!(
                result.unwrap_or_else(|error| panic!("message {idx}: {error}")),
                format!("a{number}b")
            );
        }
        self.progress
    }
}

#[test]
fn a_python_server_killed_during_a_job_costs_no_result() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let mut world = World::start(&etcd, &python, 2);
    let job = Endless::start(&world.client(), Duration::from_secs(15));
    for _ in 0..3 {
        job.goes_on();
        world.pytext.remove(0).kill();
        job.goes_on();
        world.one_more();
    }
    job.goes_on();
    job.all_is_right();
}

#[test]
fn a_python_server_leaving_during_a_job_costs_nothing() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let mut world = World::start(&etcd, &python, 2);
    let job = Endless::start(&world.client(), 4 * PATIENCE);
    for _ in 0..3 {
        job.goes_on();
        world.one_more();
        let leaving = world.pytext.remove(0);
        leaving.terminate();
        assert_eq!(leaving.wait(SOON).code(), Some(0), "{:?}", leaving.lines());
        assert!(
            leaving.lines_with("left the mesh").len() == 1,
            "{:?}",
            leaving.lines()
        );
        assert!(
            leaving.lines_with("left behind").is_empty(),
            "{:?}",
            leaving.lines()
        );
        let note = world.mesh.state()[&format!("/departed/{}", leaving.uuid)].json();
        assert_eq!(
            (&note["why"], &note["reason"]),
            (&"itself".into(), &"it killed itself".into())
        );
    }
    job.goes_on();
    let progress = job.all_is_right();
    assert_eq!(progress.retried(), 0, "leaving is not failing");
}

/// The stage before it is in Python: it receives the goodbye and acknowledges it.
#[test]
fn a_rust_server_leaving_after_a_python_stage_costs_nothing() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let mut world = World::start(&etcd, &python, 2);
    let job = Endless::start(&world.client(), 4 * PATIENCE);
    for _ in 0..3 {
        job.goes_on();
        let fresh = World::stage(&world.mesh, &etcd, "b");
        world.mesh.await_published(&[&fresh.uuid]);
        world.rust.push(fresh);
        let leaving = world.rust.remove(1);
        leaving.terminate();
        assert!(leaving.wait(SOON).success(), "{:?}", leaving.lines());
        assert!(
            leaving
                .lines_with("did not acknowledge the goodbye")
                .is_empty(),
            "{:?}",
            leaving.lines()
        );
    }
    job.goes_on();
    let progress = job.all_is_right();
    assert_eq!(progress.retried(), 0, "leaving is not failing");
}

/// The code and the data of an application error, from the last stage behind one in Python, and
/// from one in Python.
#[test]
fn codes_and_data_of_errors_reach_the_client_from_rust_and_python() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let world = World::start(&etcd, &python, 1);
    let path = "tests/tests/mesh/python_stage/shop.py";
    let shop = super::program(&python, path, &etcd.endpoint());
    let shop = world.mesh.start_program(shop);
    world.mesh.await_published(&[&shop.uuid]);
    let client = block_on(Client::connect(world.mesh.options())).expect("a client");
    for (pipeline, stage, asked) in [
        (["a.add", "pytext.reverse", "b.refuse"], 2, "atlob"),
        (["a.refuse", "pytext.reverse", "b.add"], 0, "bolt"),
        (["a.add", "pyshop.take", "b.add"], 1, "bolta"),
    ] {
        let results = client.job(pipeline).run_iter(["bolt"]).expect("there");
        let (_, result) = collect(results).remove(0);
        let error = result.expect_err("it is refused");
        assert_eq!(
            (error.kind(), error.stage()),
            (CallErrorKind::Failed, stage)
        );
        assert_eq!(error.message(), format!("there is no {asked}"));
        assert_eq!(error.code(), Some("no_item"), "{pipeline:?}");
        let data = serde_json::json!({"asked": asked, "near": ["nut", 1]});
        assert_eq!(error.data(), Some(&data), "{pipeline:?}");
    }
    meta_passes_through_rust_and_python(&client);
    let error = block_on(client.call("pyshop.endless", "").into_future()).expect_err("refused");
    assert_eq!(error.code(), Some("é".repeat(64).as_str()), "128 bytes");
    assert_eq!(error.data(), None, "NaN is no JSON");
    assert!(error.message().starts_with("too much (without"), "{error}");
}

fn meta_passes_through_rust_and_python(client: &Client) {
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let job = client.job(["pyshop.greet", "a.add", "pyshop.keep", "pyshop.greet"]);
    let job = job.meta("user", "ada").meta("traceparent", parent);
    let mut answers = job.run_iter(["Ada"]).expect("there").answers();
    let (_, answer) = block_on(answers.next()).expect("one answer");
    let answer = answer.expect("a result");
    assert_eq!(answer, "Hello, Hello, AdaaHello, Adaa");
    let seen = "language more seen traceparent user";
    let meta: Vec<_> = answer.meta().iter().collect();
    assert_eq!(meta, [("language", "en"), ("more", ""), ("seen", seen)]);
    let answered = |more: &str| {
        let call = client.call("pyshop.greet", "").meta("more", more);
        block_on(call.answer())
    };
    // As many bytes as may be: what else is there has 22.
    let answer = answered("8170").expect("not too much");
    assert_eq!(answer.meta().bytes(), 8192);
    let error = answered("8171").expect_err("too much");
    assert_eq!(error.kind(), CallErrorKind::TooLarge, "{error}");
}
