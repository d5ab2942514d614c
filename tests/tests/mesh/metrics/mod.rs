//! Metrics: what a server counts, and the ways to see it.

#![allow(clippy::unwrap_used, clippy::expect_used)]
// Counts are whole numbers.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

pub(crate) mod exposition;
mod prometheus;

use self::exposition::Exposition;
use crate::{
    common::{Mesh, QUICK},
    in_process::{InProcess, SOON, echo},
};
use futures::{StreamExt as _, channel::mpsc, executor::block_on, future::join};
use palm_peer::{Client, Config, ErrorKind, FunctionError, Message, Server};
use palm_tests::{Etcd, Process, eventually, example, in_repository};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// A server with functions that answer, fail, panic, and wait until the test lets them go on.
fn server(name: &str) -> (Server, mpsc::UnboundedSender<()>) {
    let (go, gate) = mpsc::unbounded();
    let gate = Arc::new(futures::lock::Mutex::new(gate));
    let server = Server::new(name)
        .function("echo", echo)
        .function("fail", async |_: Message| {
            Err::<&str, _>(FunctionError::from("as it must"))
        })
        .function("panic", async |message: Message| {
            assert!(message.payload().is_empty(), "as it must");
            Ok::<_, FunctionError>("")
        })
        .function("wait", move |_: Message| {
            let gate = Arc::clone(&gate);
            async move {
                gate.lock().await.next().await;
                Ok::<_, FunctionError>("waited")
            }
        });
    (server, go)
}

/// What this instance exports now; it may be out of the mesh for a moment.
fn exported(client: &Client, instance: &str) -> Exposition {
    let target = format!("{instance}._metrics");
    let ask = || block_on(client.call(&target, "").into_future()).ok();
    let text = eventually(&target, SOON, ask);
    Exposition::read(std::str::from_utf8(&text).expect("text"))
}

/// Waits until a metric of this instance has this value.
fn await_value(client: &Client, instance: &str, name: &str, wanted: f64) {
    eventually(&format!("{name} is {wanted}"), SOON, || {
        let found = exported(client, instance).sum(name, &[]);
        ((found - wanted).abs() < 0.5).then_some(())
    });
}

fn connect(config: Config) -> Client {
    block_on(Client::connect(config)).expect("connects")
}

#[test]
fn calls_errors_durations_and_memory_are_counted() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/counted", &[]);
    let (server, go) = server("text");
    let peer = InProcess::start(server, mesh.options().max_in_flight(1));
    let client = connect(mesh.options());
    let before = exported(&client, "text");
    // A rate needs a sample from before the first error.
    let failed = [("function", "fail"), ("kind", "failed")];
    assert!(before.sum("palm_function_errors_total", &failed) < 0.5);
    let call = |function: &str, payload: &str| {
        block_on(
            client
                .call(format!("text.{function}"), payload.to_owned())
                .into_future(),
        )
    };
    for _ in 0..3 {
        call("echo", "hello").expect("an echo");
    }
    call("fail", "").expect_err("it fails");
    call("panic", "now").expect_err("it panics");
    // A client knows the names of all functions but the built-in ones.
    call("_none", "").expect_err("there is no such function");

    let waiting = client.call("text.wait", vec![0; 100_000]).into_future();
    let (queued, running) = (
        client.call("text.wait", "queued").into_future(),
        Mutex::new(None),
    );
    thread::scope(|scope| {
        scope.spawn(|| block_on(join(waiting, queued)));
        await_value(&client, "text", "palm_queued_requests", 1.0);
        running.lock().unwrap().replace(exported(&client, "text"));
        go.unbounded_send(()).unwrap();
        go.unbounded_send(()).unwrap();
    });
    let running = running.into_inner().unwrap().expect("exported meanwhile");
    let held = |place: &str| running.sum("palm_held_bytes", &[("place", place)]);
    assert!((held("running") - 100_000.0).abs() < 0.5);
    assert!((held("queued") - 6.0).abs() < 0.5);
    let count = |found: &Exposition, name: &str, labels: &[(&str, &str)]| {
        found.sum(&format!("palm_{name}"), labels).round()
    };
    let wait = [("function", "wait")];
    assert_eq!(count(&running, "function_in_flight", &wait) as u64, 1);

    let found = exported(&client, "text");
    let counts = |name: &str, labels: &[(&str, &str)]| count(&found, name, labels) as u64;
    for (function, requests) in [("echo", 3), ("fail", 1), ("panic", 1), ("wait", 2)] {
        let of = [("function", function), ("server", "text")];
        assert_eq!(counts("function_requests_total", &of), requests);
        assert_eq!(counts("function_duration_seconds_count", &of), requests);
        assert_eq!(counts("function_in_flight", &of), 0);
    }
    assert_eq!(counts("function_errors_total", &failed), 1);
    let panicked = [("function", "panic"), ("kind", "panicked")];
    assert_eq!(counts("function_errors_total", &panicked), 1);
    let unknown = [("kind", "no_such_function")];
    assert_eq!(counts("errors_total", &unknown), 1);
    assert_eq!(counts("errors_total", &[]), 3);
    let last = counts("function_last_error_timestamp_seconds", &failed);
    assert!(last >= counts("peer_start_time_seconds", &[]), "{last}");
    let uuid = peer.peer.uuid().to_string();
    assert_eq!(counts("peer_info", &[("uuid", &uuid)]), 1);
    assert!(found.sum("palm_resident_memory_bytes", &[]) > 1e6);
}

#[test]
fn leading_leases_probes_and_refusals_are_counted() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/led", &QUICK);
    let first = InProcess::start(server("one").0, mesh.options());
    let second = InProcess::start(server("two").0, mesh.options());
    let client = connect(mesh.options());
    block_on(client.wait_for("one", 1, SOON).into_future()).expect("published");
    block_on(client.wait_for("two", 1, SOON).into_future()).expect("published");
    let of = |name: &str| exported(&client, name);
    let (one, two) = (of("one"), of("two"));
    assert_eq!(one.sum("palm_peer_leading", &[]) as u64, 1);
    assert_eq!(two.sum("palm_peer_leading", &[]) as u64, 0);
    assert!(one.sum("palm_probes_sent_total", &[]) > 1.5);
    assert!(one.sum("palm_links", &[]) > 0.5 && two.sum("palm_connections", &[]) > 0.5);
    for found in [&one, &two] {
        assert_eq!(found.sum("palm_peer_configured", &[]) as u64, 1);
        assert_eq!(found.sum("palm_peer_attached", &[]) as u64, 1);
    }
    eventually("the lease is renewed", SOON, || {
        (of("one").sum("palm_lease_renewals_total", &[]) > 0.5).then_some(())
    });

    let address = second.peer.endpoint().strip_prefix("tcp://").unwrap();
    let mut stranger = TcpStream::connect(address).expect("connects");
    stranger
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .expect("written");
    let _ = stranger.read_to_end(&mut Vec::new());
    let refused = [("kind", "not_zmtp")];
    eventually("the refusal is counted", SOON, || {
        let refused = of("two").sum("palm_connections_refused_total", &refused);
        (refused > 0.5).then_some(())
    });

    // A leader without a lease no longer leads.
    let key = format!("/led/servers/{}", first.peer.uuid());
    let record: serde_json::Value =
        serde_json::from_str(&etcd.etcdctl(&["get", &key, "-w", "json"])).expect("JSON");
    let lease = record["kvs"][0]["lease"].as_i64().expect("a lease");
    etcd.etcdctl(&["lease", "revoke", &format!("{lease:x}")]);
    await_value(&client, "one", "palm_lease_losses_total", 1.0);
    await_value(&client, "one", "palm_peer_leading", 0.0);
    await_value(&client, "two", "palm_peer_terms_total", 1.0);
    await_value(&client, "one", "palm_peer_attached", 1.0);

    etcd.stop();
    await_value(&client, "two", "palm_lease_doubts_total", 1.0);
    await_value(&client, "two", "palm_peer_leading", 0.0);
    let two = of("two");
    assert!(two.sum("palm_lease_renewal_failures_total", &[]) > 0.5);
    etcd.restart();
    await_value(&client, "two", "palm_peer_attached", 1.0);
}

/// The names, types and labels in the table of docs/operations.md.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = fs::read_to_string(in_repository("docs/operations.md")).expect("the document");
    let (_, table) = text.split_once("<!-- metrics: ").expect("the table");
    let (table, _) = table
        .split_once("<!-- end of metrics -->")
        .expect("its end");
    let quoted = |cell: &str| -> Vec<String> {
        let parts = cell.split('`').skip(1).step_by(2);
        parts.map(str::to_owned).collect()
    };
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let name = quoted(cells[1]).remove(0);
        let labels = quoted(cells[4]).into_iter().collect();
        (name, (cells[2].to_owned(), labels))
    })
    .collect()
}

#[test]
fn the_table_in_the_documentation_is_what_a_server_exports() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/table", &[]);
    let _peer = InProcess::start(server("text").0, mesh.options());
    let client = connect(mesh.options());
    block_on(client.call("text.fail", "").into_future()).expect_err("it fails");
    let found = exported(&client, "text");
    let exported: BTreeMap<_, _> = found
        .families
        .iter()
        .map(|family| {
            let samples = found.samples.iter();
            let samples = samples.filter(|sample| sample.family == family.name);
            let labels = samples.flat_map(|sample| sample.labels.keys().cloned());
            let labels = labels.filter(|label| label != "server").collect();
            (family.queried(), (family.kind.clone(), labels))
        })
        .collect();
    assert_eq!(documented(), exported);
    for family in &found.families {
        // node_exporter, which can pass them on, has metrics of its own, such as process_*.
        assert!(family.name.starts_with("palm_"), "{}", family.name);
        let in_name = ["seconds", "bytes"]
            .into_iter()
            .find(|unit| family.name.ends_with(&format!("_{unit}")));
        assert_eq!(family.unit.as_deref(), in_name, "{}", family.name);
    }
}

/// Sends this to the listener for metrics. Returns all that comes back.
fn http(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream.write_all(request).expect("written");
    let began = Instant::now();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    // Less than the listener waits for a client that does not close its connection.
    assert!(began.elapsed() < Duration::from_secs(9), "the end is late");
    answer
}

const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn metrics_are_served_over_http_within_bounds() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/http", &[]);
    let free = Some("127.0.0.1:0".parse().unwrap());
    let mut peer = InProcess::start(server("text").0, mesh.options().metrics(free));
    let address = peer.peer.metrics_address().expect("metrics are served");
    let answer = http(address, GET);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let lines: Vec<_> = head.split("\r\n").collect();
    assert_eq!(
        lines,
        [
            "HTTP/1.1 200 OK",
            "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8",
            &format!("Content-Length: {}", body.len()),
            "Connection: close",
        ]
    );
    let found = Exposition::read(body);
    assert_eq!(found.sum("palm_peer_configured", &[]) as u64, 1);
    let long = [GET.split_at(24).0, &vec![b'a'; 64 * 1024]].concat();
    for (request, status) in [
        (&b"HEAD /metrics HTTP/1.0\r\n\r\n"[..], "200 OK"),
        (b"GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        (b"nonsense\r\n\r\n", "400 Bad Request"),
        (&long, "431 Request Header Fields Too Large"),
    ] {
        let answer = http(address, request);
        let wanted = format!("HTTP/1.1 {status}\r\n");
        assert!(answer.starts_with(&wanted), "{answer}");
    }

    // More strangers than are served at once, none of which ends its request.
    let strangers: Vec<_> = (0..12)
        .map(|_| {
            let mut stranger = TcpStream::connect(address).expect("connects");
            stranger.write_all(&GET[..20]).expect("written");
            stranger
        })
        .collect();
    let answer = http(address, GET);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    drop(strangers);

    let taken = block_on(server("text").0.join(mesh.options().metrics(Some(address))));
    let error = taken.expect_err("the address is taken");
    assert_eq!(error.kind(), ErrorKind::Bind);
    let text = error.to_string();
    assert!(
        text.starts_with(&format!(
            "cannot serve metrics at {address} (set metrics to "
        )),
        "{text}"
    );
    let public = mesh.options().metrics(Some("0.0.0.0:0".parse().unwrap()));
    let error = block_on(server("text").0.join(public)).expect_err("not without a word");
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);

    peer.leave();
    peer.ended().expect("it leaves");
    eventually("it is closed", SOON, || TcpStream::connect(address).err());
}

/// The listener has a thread of its own, and no server ends because of it.
#[test]
fn metrics_are_served_while_functions_block_and_after_panics() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/blocked", &[]);
    let program = Process::builder(example("sleepy"))
        .args(["run", "--etcd", &etcd.endpoint(), "--ttl", "60"])
        .env("PALM_METRICS", "127.0.0.1:0")
        .env("PALM_TEST_PANIC", "metrics-listener:5");
    let server = mesh.start_program(program);
    mesh.await_published(&[&server.uuid]);
    let (line, _) = server.wait_for_line(|line| line.contains("the metrics are at http://"), SOON);
    let (_, address) = line.split_once("http://").unwrap();
    let address = address.trim_end_matches("/metrics").parse().unwrap();
    let client = connect(mesh.options());
    thread::scope(|scope| {
        let call = client.call(format!("{}.block", server.uuid), "3");
        let calling = scope.spawn(|| block_on(call.into_future()));
        let blocked = || {
            let found = Exposition::read(http(address, GET).split_once("\r\n\r\n")?.1);
            let running = found.sum("palm_function_in_flight", &[("function", "block")]);
            let failures = found.sum("palm_task_failures_total", &[]);
            (running > 0.5 && failures > 4.5).then_some(())
        };
        eventually("a running function is seen", SOON, blocked);
        calling.join().unwrap().expect("an answer in the end");
    });
}
