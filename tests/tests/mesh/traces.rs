//! Traces across processes, by OpenTelemetry.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::{Mesh, Server};
use palm_tests::{Etcd, Process, ProcessBuilder, eventually, example};
use serde::Deserialize;
use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);
const SETTINGS: [&str; 6] = ["--ttl", "10", "--probe-period", "5", "--probe-timeout", "5"];
const NONE: &str = "0000000000000000";

/// A span that has ended.
#[derive(Debug, Clone, Deserialize)]
struct Span {
    name: String,
    kind: String,
    trace: String,
    #[serde(rename = "span")]
    id: String,
    parent: String,
    attributes: BTreeMap<String, String>,
}

impl Span {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }
}

/// Servers that write their spans into files.
struct World<'a> {
    etcd: &'a Etcd,
    files: TempDir,
    _servers: Vec<Server>,
}

impl<'a> World<'a> {
    fn start(etcd: &'a Etcd, names: &[&str]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let mesh = Mesh::new(etcd, "", &SETTINGS);
        let start = |name: &&str| {
            let program = Process::builder(example("traced"))
                .args(["run", "--etcd", &etcd.endpoint()])
                .args(SETTINGS)
                .env("PALM_TEST_STAGE", name)
                .env("PALM_TEST_SPANS", files.path().join(name));
            mesh.start_program(program)
        };
        let servers: Vec<_> = names.iter().map(start).collect();
        let uuids: Vec<_> = servers.iter().map(|server| server.uuid.as_str()).collect();
        mesh.await_published(&uuids);
        Self {
            etcd,
            files,
            _servers: servers,
        }
    }

    fn client(&self, args: &[&str]) -> ProcessBuilder {
        Process::builder(example("traced"))
            .args(["ask"])
            .args(args.iter().copied())
            .env("PALM_ETCD", self.etcd.endpoint())
            .env("PALM_TEST_SPANS", self.file("client"))
    }

    /// Runs a client, and returns what it printed.
    fn ask(&self, args: &[&str]) -> String {
        let client = self.client(args).start();
        assert!(client.wait(SOON).success(), "{:?}", client.lines());
        client.lines().join("\n")
    }

    fn file(&self, process: &str) -> PathBuf {
        self.files.path().join(process)
    }

    /// Waits until a process has written a span of this name and kind, and returns the latest one.
    fn span(&self, process: &str, kind: &str, name: &str) -> Span {
        let what = format!("{process} has a span {name} of kind {kind}");
        eventually(&what, SOON, || {
            let lines = fs::read_to_string(self.file(process)).ok()?;
            let mut spans = lines
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            spans.rfind(|span: &Span| span.name == name && span.kind == kind)
        })
    }
}

#[track_caller]
fn is_child(span: &Span, parent: &Span) {
    assert_eq!(
        (&span.trace, &span.parent),
        (&parent.trace, &parent.id),
        "{span:?} of {parent:?}"
    );
}

/// A job through three processes is one trace: the client's job and attempt, and at each server a
/// stage, whose child is the function, whose child is the function's own span.
#[test]
fn a_job_through_three_processes_is_one_trace() {
    let etcd = Etcd::start();
    let names = ["one", "two", "three"];
    let world = World::start(&etcd, &names);
    let pipeline = names.map(|name| format!("{name}.work"));
    let args: Vec<_> = std::iter::once("payload")
        .chain(pipeline.iter().map(String::as_str))
        .collect();
    assert_eq!(world.ask(&args), "payload");
    let job = world.span("client", "Internal", "job one.work,two.work,three.work");
    assert_eq!(job.parent, NONE);
    let attempt = world.span("client", "Client", "one.work");
    is_child(&attempt, &job);
    assert_eq!(attempt.attribute("server.address"), Some("127.0.0.1"));
    assert!(attempt.attribute("server.port").is_some(), "{attempt:?}");
    let mut before = attempt;
    for (number, name) in names.iter().enumerate() {
        let stage = world.span(name, "Server", &pipeline[number]);
        is_child(&stage, &before);
        for (attribute, value) in [
            ("rpc.system.name", "palm"),
            ("rpc.method", &pipeline[number]),
            ("palm.stage", &number.to_string()),
            ("palm.idx", "0"),
        ] {
            assert_eq!(stage.attribute(attribute), Some(value), "{stage:?}");
        }
        let same_job = stage.attribute("palm.job") == job.attribute("palm.job");
        assert!(same_job, "{stage:?} of {job:?}");
        assert_eq!(stage.attribute("error.type"), None, "{stage:?}");
        let function = world.span(name, "Internal", "function work");
        is_child(&function, &stage);
        is_child(&world.span(name, "Internal", "working"), &function);
        before = stage;
    }
}

/// A function that calls another one goes on with the trace of its caller. An error is in the spans
/// of all who have it.
#[test]
fn a_call_by_a_function_and_its_error_belong_to_one_trace() {
    let etcd = Etcd::start();
    let world = World::start(&etcd, &["one", "two"]);
    assert!(world.ask(&["two.fail", "one.ask"]).contains("no such luck"));
    let mut before = world.span("client", "Internal", "call one.ask");
    assert_eq!(before.parent, NONE);
    for (process, kind, name) in [
        ("client", "Client", "one.ask"),
        ("one", "Server", "one.ask"),
        ("one", "Internal", "function ask"),
        ("one", "Internal", "call two.fail"),
        ("one", "Client", "two.fail"),
        ("two", "Server", "two.fail"),
        ("two", "Internal", "function fail"),
    ] {
        let span = world.span(process, kind, name);
        is_child(&span, &before);
        assert_eq!(span.attribute("error.type"), Some("failed"), "{span:?}");
        before = span;
    }
}
