//! Tests of the harness itself.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use palm_tests::{Etcd, EtcdCluster, Process, Proxy, eventually, free_port};

const SOON: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(200);

#[test]
fn etcd_keeps_its_data_across_stop_and_kill() {
    let etcd = Etcd::start();
    let endpoint = etcd.endpoint();
    etcd.etcdctl(&["put", "/a", "1"]);
    etcd.stop();
    assert!(!etcd.is_healthy());
    assert!(
        !etcd
            .try_etcdctl(&["--command-timeout=500ms", "get", "/a"])
            .status
            .success()
    );
    etcd.restart();
    etcd.etcdctl(&["put", "/b", "2"]);
    etcd.kill();
    etcd.restart();
    let keys = etcd.etcdctl(&["get", "--prefix", "--keys-only", "/"]);
    assert_eq!(keys.split_whitespace().collect::<Vec<_>>(), ["/a", "/b"]);
    assert_eq!(etcd.endpoint(), endpoint);
}

#[test]
fn etcd_counts_what_it_does() {
    let etcd = Etcd::start();
    let counted = || {
        let txns = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\"";
        (
            etcd.metric("etcd_mvcc_put_total"),
            etcd.metric_where("grpc_server_started_total", txns),
        )
    };
    let before = counted();
    etcd.etcdctl(&["put", "/a", "1"]);
    assert_eq!(counted(), (before.0 + 1.0, before.1 + 1.0));
}

#[test]
fn a_frozen_etcd_is_silent_until_it_is_thawed() {
    let etcd = Etcd::start();
    etcd.freeze();
    assert!(!etcd.is_healthy());
    etcd.thaw();
    assert!(etcd.is_healthy());
}

#[test]
fn etcd_flags_override_defaults() {
    let etcd = Etcd::builder().arg("--max-txn-ops=1").start();
    let mut txn = Process::builder("sh")
        .args(["-c", "printf '\\nput a 1\\nput b 2\\n\\n\\n' | etcdctl txn"])
        .env("ETCDCTL_API", "3")
        .env("ETCDCTL_ENDPOINTS", etcd.endpoint())
        .start();
    assert!(!txn.wait(SOON).success());
    txn = Process::start("sh", ["-c", "exit 3"]);
    assert_eq!(txn.wait(SOON).code(), Some(3));
}

#[test]
fn a_dropped_etcd_leaves_nothing_even_when_frozen() {
    let etcd = Etcd::start();
    let (pid, folder) = (etcd.pid(), etcd.folder().to_owned());
    assert!(is_alive(pid) && folder.exists());
    etcd.freeze();
    drop(etcd);
    assert!(!is_alive(pid) && !folder.exists());
}

#[test]
fn a_cluster_has_a_leader_that_moves_and_that_is_replaced() {
    let cluster = EtcdCluster::start();
    assert_eq!(cluster.endpoints().len(), 3);
    let first = cluster.leader();
    let second = (first + 1) % 3;
    cluster.move_leader_to(second);
    assert_eq!(cluster.leader(), second);
    cluster.member(second).kill();
    let third = eventually("another member leads", SOON, || {
        Some(cluster.leader()).filter(|i| *i != second)
    });
    cluster.member(third).etcdctl(&["put", "/a", "1"]);
    cluster.member(second).restart();
    assert_eq!(
        cluster
            .member(second)
            .etcdctl(&["get", "--print-value-only", "/a"]),
        "1\n"
    );
}

#[test]
fn a_proxy_passes_stalls_and_cuts() {
    let proxy = Proxy::start(echo());
    let mut line = connect(&proxy);
    assert_eq!(said(&mut line, b"one"), "one");

    proxy.stall();
    assert_eq!(said(&mut line, b"two"), "", "a stalled proxy moves nothing");
    let mut late = connect(&proxy);
    assert_eq!(
        said(&mut late, b"three"),
        "",
        "nor does a connection made meanwhile"
    );
    proxy.pass();
    assert_eq!(said(&mut line, b"!"), "two!");
    assert_eq!(said(&mut late, b"!"), "three!");
    assert_eq!(proxy.connections(), 2);

    proxy.cut();
    assert_eq!(
        line.read(&mut [0; 8]).unwrap_or(0),
        0,
        "a cut connection has ended"
    );
    assert!(
        TcpStream::connect(proxy.address()).is_err(),
        "a cut proxy refuses"
    );
    proxy.stall();
    let mut line = connect(&proxy);
    assert_eq!(said(&mut line, b"four"), "");
    proxy.cut();
    assert_eq!(
        line.read(&mut [0; 8]).unwrap_or(0),
        0,
        "a stalled connection is cut as well"
    );
    proxy.pass();
    assert_eq!(said(&mut connect(&proxy), b"five"), "five");
    assert_eq!(
        said(&mut connect(&proxy), &vec![b'x'; 200_000]).len(),
        200_000
    );

    let address = proxy.address();
    drop(proxy);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_proxy_forwards_a_half_close() {
    let proxy = Proxy::start(echo());
    let mut line = connect(&proxy);
    line.write_all(b"last").unwrap();
    line.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    line.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "last");
    eventually("the proxy forgets the connection", SOON, || {
        (proxy.connections() == 0).then_some(())
    });
}

#[test]
fn a_proxy_stands_between_a_client_and_etcd() {
    let etcd = Etcd::start();
    let proxy = Proxy::start(etcd.address());
    let put = |key| {
        let through = format!("--endpoints={}", proxy.endpoint());
        let args = [
            "-c",
            "etcdctl \"$0\" --dial-timeout=1s --command-timeout=1s put \"$1\" x",
            &through,
            key,
        ];
        Process::builder("sh")
            .args(args)
            .env("ETCDCTL_API", "3")
            .start()
            .wait(SOON)
            .success()
    };
    assert!(put("/a"));
    proxy.cut();
    assert!(!put("/b"));
    proxy.stall();
    assert!(!put("/c"));
    proxy.pass();
    assert!(put("/d"));
}

#[test]
fn a_process_is_read_line_by_line() {
    let script = "trap 'echo bye; exit 7' TERM; echo one; echo two >&2; echo $GREETING; while :; do sleep 0.05; done";
    let started = Instant::now();
    let process = Process::builder("sh")
        .arg("-c")
        .arg(script)
        .env("GREETING", "hello")
        .start();
    let (line, at) = process.wait_for_line(|line| line.starts_with("hel"), SOON);
    assert_eq!(line, "hello");
    assert!(at >= started && at <= Instant::now());
    process.wait_for_line(|line| line == "two", SOON);
    assert_eq!(
        process.wait_for_line(|line| line == "one", SOON).0,
        "one",
        "lines from the beginning count"
    );

    process.freeze();
    process.terminate();
    let mark = process.mark();
    assert!(process.is_running());
    process.thaw();
    process.wait_for_line_after(mark, |line| line == "bye", SOON);
    assert_eq!(process.wait(SOON).code(), Some(7));
    assert_eq!(process.lines().len(), 4);
}

#[test]
#[should_panic(expected = "did not say the line before its output ended:\nnothing of use")]
fn waiting_for_a_line_ends_with_the_process() {
    let process = Process::start("echo", ["nothing of use"]);
    process.wait_for_line(|line| line == "ready", Duration::from_secs(600));
}

#[test]
fn a_dropped_process_is_gone_even_when_frozen() {
    let process = Process::start("sleep", ["600"]);
    let pid = process.pid();
    process.freeze();
    assert!(is_alive(pid));
    drop(process);
    assert!(!is_alive(pid));
}

#[test]
fn a_process_survives_the_thread_that_started_it() {
    let process = thread::spawn(|| Process::start("sleep", ["600"]))
        .join()
        .unwrap();
    thread::sleep(SILENCE);
    assert!(process.is_running());
}

#[test]
fn a_port_is_issued_once() {
    let mut ports: Vec<_> = (0..20).map(|_| free_port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 20);
}

#[test]
#[should_panic(expected = "run `cargo build --workspace --bins --examples` first")]
fn a_missing_program_is_named_with_its_build_command() {
    let _ = palm_tests::binary("no-such-program");
}

#[test]
fn the_prepared_python_has_pyzmq() {
    if let Some(python) = palm_tests::python() {
        assert!(
            Process::start(python, ["-c", "import zmq"])
                .wait(SOON)
                .success()
        );
    }
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn connect(proxy: &Proxy) -> TcpStream {
    let line = TcpStream::connect(proxy.address()).unwrap();
    line.set_read_timeout(Some(SILENCE)).unwrap();
    line
}

/// Sends `words` and reads until nothing comes for a while.
fn said(line: &mut TcpStream, words: &[u8]) -> String {
    line.write_all(words).unwrap();
    let mut heard = Vec::new();
    let _ = line.read_to_end(&mut heard);
    String::from_utf8(heard).unwrap()
}

/// An echo server; it ends with the test's process.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    address
}
