//! docs/monitoring with a real Prometheus: it scrapes servers, and each query of the dashboard and
//! of the alerts has data.

use super::{SOON, connect, server};
use crate::{
    common::{Mesh, QUICK},
    in_process::InProcess,
};
use futures::executor::block_on;
use palm_tests::{Etcd, Process, eventually, free_port, in_repository};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// Prometheus starts, scrapes several times, and has rates.
const SCRAPED_WITHIN: Duration = Duration::from_secs(60);

fn is_installed(program: &str) -> bool {
    let run = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    run.is_ok_and(|status| status.success())
}

/// Says that a test is skipped, unless Prometheus is installed.
fn is_skipped() -> bool {
    let is_missing = !(is_installed("prometheus") && is_installed("promtool"));
    if is_missing {
        println!("SKIPPED: Prometheus is not installed");
    }
    is_missing
}

#[test]
fn alerts_fire_for_a_cause_and_not_without() {
    if is_skipped() {
        return;
    }
    for (what, file) in [("check", "alerts.yml"), ("test", "alerts_test.yml")] {
        let path = in_repository(&format!("docs/monitoring/{file}"));
        let output = Command::new("promtool")
            .args([what, "rules"])
            .arg(path)
            .output()
            .expect("promtool runs");
        assert!(output.status.success(), "{file}: {output:?}");
    }
}

/// The queries of a dashboard, with its variables replaced.
fn queries_of_dashboard() -> Vec<String> {
    let path = in_repository("docs/monitoring/grafana-dashboard.json");
    let dashboard = fs::read_to_string(path).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let (mut ids, mut queries) = (BTreeSet::new(), Vec::new());
    let mut cells = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64()), "an id twice: {panel}");
        let at = |name| panel["gridPos"][name].as_u64().expect(name);
        for (x, y) in (0..at("w")).flat_map(|x| (0..at("h")).map(move |y| (x, y))) {
            let is_free = cells.insert((at("x") + x, at("y") + y));
            assert!(is_free && at("x") + at("w") <= 24, "{panel}");
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            let source = &target["datasource"]["uid"];
            assert_eq!(source, "${datasource}", "{panel}");
            let query = target["expr"].as_str().expect("a query");
            let query = query.replace("$__rate_interval", "5m");
            queries.push(query.replace("$server", ".*"));
        }
    }
    let variables = dashboard["templating"]["list"].as_array().expect("a list");
    let names = variables.iter().map(|one| one["name"].as_str());
    assert_eq!(
        names.collect::<Vec<_>>(),
        [Some("datasource"), Some("server")]
    );
    assert!(queries.len() > 20 && !queries.iter().any(|query| query.contains('$')));
    queries
}

/// A running Prometheus, and where it listens.
struct Prometheus {
    process: Process,
    port: u16,
    _folder: TempDir,
}

impl Prometheus {
    fn start(targets: &[String]) -> Self {
        let folder = TempDir::new().expect("a folder");
        let rules = in_repository("docs/monitoring/alerts.yml");
        let rules = rules.to_str().expect("a path in UTF-8");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [{rules:?}]\n\
             scrape_configs:\n  - job_name: palm\n    static_configs: [{{targets: {targets:?}}}]\n"
        );
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config).expect("written");
        let port = free_port();
        let process = Process::builder("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .start();
        Self {
            process,
            port,
            _folder: folder,
        }
    }

    /// Returns the answer of the HTTP API; `None` while it cannot be reached.
    fn get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(SOON)).ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// Returns how many series a query finds; the query must be valid.
    fn series(&self, query: &str) -> Option<usize> {
        let mut encoded = String::new();
        for byte in query.bytes() {
            write!(encoded, "%{byte:02X}").expect("a string takes it");
        }
        let answer = self.get(&format!("/api/v1/query?query={encoded}"))?;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().map(Vec::len)
    }

    /// Waits until a query finds something.
    fn await_data(&self, query: &str) {
        eventually(query, SCRAPED_WITHIN, || {
            self.series(query).filter(|series| *series > 0)
        });
    }
}

#[test]
fn every_query_of_dashboard_and_alerts_has_data() {
    if is_skipped() {
        return;
    }
    let queries = queries_of_dashboard();
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/scraped", &QUICK);
    let start = |name: &str| {
        let free = Some("127.0.0.1:0".parse().unwrap());
        InProcess::start(server(name).0, mesh.options().metrics(free))
    };
    let peers = [start("one"), start("two")];
    let targets = peers
        .each_ref()
        .map(|server| server.peer.metrics_address().expect("metrics").to_string());
    let prometheus = Prometheus::start(&targets);
    prometheus.await_data("up{job=\"palm\"} == 1");
    let client = connect(mesh.options());
    for name in ["one", "two"] {
        block_on(client.wait_for(name, 1, SOON).into_future()).expect("published");
        block_on(client.call(format!("{name}.echo"), "").into_future()).expect("an echo");
        block_on(client.call(format!("{name}.fail"), "").into_future()).expect_err("it fails");
    }
    for query in &queries {
        prometheus.await_data(query);
    }
    let rules = prometheus.get("/api/v1/rules").expect("the rules");
    let rules = rules["data"]["groups"][0]["rules"]
        .as_array()
        .expect("rules")
        .clone();
    assert!(rules.len() > 10, "{rules:?}");
    for rule in rules {
        // What is compared with the limit, as the comment in the file says.
        let query = rule["query"].as_str().expect("a query");
        let compared = [" > ", " == "]
            .map(|sign| query.rfind(sign))
            .into_iter()
            .max();
        let limit = compared
            .flatten()
            .unwrap_or_else(|| panic!("no limit: {query}"));
        prometheus.await_data(&query[..limit]);
        assert_eq!(rule["lastError"], Value::Null, "{rule}");
    }
    // Everything that is exported was read, with its type.
    let metadata = prometheus
        .get("/api/v1/targets/metadata")
        .expect("metadata");
    let known = metadata["data"].as_array().expect("a list");
    let is_typed = |name: &str, kind: &str| {
        let named = known.iter().find(|one| one["metric"] == name);
        named.is_some_and(|one| one["type"] == kind)
    };
    assert!(is_typed("palm_function_requests", "counter"), "{known:?}");
    assert!(
        is_typed("palm_function_duration_seconds", "histogram"),
        "{known:?}"
    );
    prometheus.process.terminate();
    prometheus.process.wait(SOON);
}
