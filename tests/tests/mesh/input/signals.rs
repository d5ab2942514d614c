//! Signals end a server whatever it is doing: while it joins, serves, or drains.

use super::SOON;
use futures::executor::block_on;
use palm_peer::{Client, Config};
use palm_tests::{Etcd, Process, ProcessBuilder, eventually, example, free_port};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Far below what joining may take here, and what a drain may.
const AT_ONCE: Duration = Duration::from_secs(6);

type Signal = (&'static str, fn(&Process));

const SIGNALS: [Signal; 3] = [
    ("TERM", Process::terminate),
    ("INT", Process::interrupt),
    ("HUP", Process::hang_up),
];

fn server(name: &str, etcd: &str) -> ProcessBuilder {
    Process::builder(example(name))
        .args(["run", "--etcd", etcd])
        .env("PALM_JOIN_TIMEOUT", "3600")
}

/// Ends at once, in order, and says so.
#[track_caller]
fn ends_at_once(process: &Process, what: &str) {
    let began = Instant::now();
    let status = process.wait(SOON);
    assert!(began.elapsed() < AT_ONCE, "{what}: {:?}", began.elapsed());
    assert_eq!(
        status.code(),
        Some(0),
        "{what}: {status} {:?}",
        process.lines()
    );
}

/// Keys of servers, candidates and leases, which must all be gone.
fn left_behind(etcd: &Etcd) -> Vec<String> {
    let keys = ["/servers/", "/election/"]
        .map(|prefix| etcd.etcdctl(&["get", "--prefix", "--keys-only", prefix]));
    keys.iter()
        .flat_map(|keys| keys.lines())
        .filter(|key| !key.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_server_that_joins_ends_at_a_signal() {
    let refusing = format!("http://127.0.0.1:{}", free_port());
    for (name, signal) in SIGNALS {
        let process = server("printf", &refusing).start();
        process.wait_for_line(
            |line| line.starts_with("INFO:") && line.contains("server printf joins the mesh"),
            SOON,
        );
        let waits = |line: &str| {
            line.starts_with("WARNING:") && line.contains("joining waits for etcd, 3600s at most")
        };
        process.wait_for_line(waits, SOON);
        signal(&process);
        ends_at_once(&process, name);
        process.wait_for_line(
            |line| line.ends_with("stopped while joining the mesh"),
            SOON,
        );
    }
}

#[test]
fn programs_on_other_executors_end_at_a_signal_while_they_join() {
    let refusing = format!("http://127.0.0.1:{}", free_port());
    for name in ["printf_tokio", "printf_smol", "printf_async_std"] {
        let process = Process::builder(example(name))
            .env("PALM_ETCD", &refusing)
            .env("PALM_JOIN_TIMEOUT", "3600")
            .start();
        process.wait_for_line(|line| line.contains("joining waits for etcd"), SOON);
        process.terminate();
        ends_at_once(&process, name);
    }
}

#[test]
fn a_server_stopped_during_an_etcd_freeze_leaves_nothing() {
    let etcd = Etcd::start();
    let running = server("printf", &etcd.endpoint()).start();
    running.wait_for_line(|line| line.contains("joined as"), SOON);
    for (name, signal) in SIGNALS {
        etcd.freeze();
        let process = server("text", &etcd.endpoint()).start();
        process.wait_for_line(|line| line.contains("joins the mesh"), SOON);
        signal(&process);
        ends_at_once(&process, name);
        etcd.thaw();
        eventually("only the other server is registered", SOON, || {
            (left_behind(&etcd).len() == 2).then_some(())
        });
    }
}

#[test]
fn a_server_stopped_while_joining_leaves_nothing() {
    let etcd = Etcd::start();
    for step in 0..16 {
        let process = server("text", &etcd.endpoint()).start();
        process.wait_for_line(|line| line.contains("joins the mesh"), SOON);
        // From before the first request to after the record was put: each moment must be right.
        thread::sleep(Duration::from_millis(step));
        process.terminate();
        ends_at_once(&process, &format!("{step} ms"));
        assert_eq!(
            left_behind(&etcd),
            Vec::<String>::new(),
            "{step} ms: {:?}",
            process.lines()
        );
    }
}

#[test]
fn closing_the_terminal_shuts_a_server_down_gracefully() {
    let etcd = Etcd::start();
    let process = server("printf", &etcd.endpoint()).start();
    process.wait_for_line(|line| line.contains("joined as"), SOON);
    process.hang_up();
    // The shell that was hung up on passes it on.
    process.hang_up();
    ends_at_once(&process, "HUP");
    process.wait_for_line(|line| line.ends_with("left the mesh"), SOON);
    assert_eq!(left_behind(&etcd), Vec::<String>::new());
}

#[test]
fn a_server_under_nohup_survives_its_terminal() {
    let etcd = Etcd::start();
    let program = example("printf").display().to_string();
    let process = Process::builder("nohup")
        .args([&program, "run", "--etcd", &etcd.endpoint()])
        .start();
    process.wait_for_line(|line| line.contains("joined as"), SOON);
    process.wait_for_line(|line| line.ends_with(" configured"), SOON);
    process.hang_up();
    let client = client(&etcd, "printf");
    let answer = block_on(async {
        client
            .call("printf.printf", "still there")
            .timeout(SOON)
            .await
    });
    assert_eq!(answer.unwrap(), "still there");
    process.terminate();
    ends_at_once(&process, "TERM after an ignored HUP");
}

/// A client that sees this server.
fn client(etcd: &Etcd, server: &str) -> Client {
    let settings = Config::default().etcd(vec![etcd.endpoint()]);
    let client = block_on(Client::connect(settings)).expect("a client");
    eventually("the client sees it", SOON, || {
        client
            .reachable()
            .iter()
            .any(|r| r.server == server)
            .then_some(())
    });
    client
}

/// A server with a request under way that takes a minute, and leaves.
fn draining(etcd: &Etcd, function: &'static str) -> (Process, thread::JoinHandle<()>) {
    let process = server("sleepy", &etcd.endpoint())
        .args(["--drain", "50"])
        .start();
    process.wait_for_line(|line| line.ends_with(" configured"), SOON);
    let client = client(etcd, "sleepy");
    let call = thread::spawn(move || {
        let answered = block_on(async {
            client
                .call(function, "60")
                .timeout(Duration::from_secs(90))
                .await
        });
        answered.expect_err("the server ends before it can answer");
    });
    (process, call)
}

#[test]
fn a_second_signal_ends_a_drain() {
    for (name, signal) in SIGNALS.into_iter().take(2) {
        let etcd = Etcd::start();
        let (process, call) = draining(&etcd, "sleepy.wait");
        process.wait_for_line(|line| line.ends_with(":waiting"), SOON);
        process.terminate();
        process.wait_for_line(|line| line.contains("finishing 1 requests"), SOON);
        // A terminal that closes meanwhile (SIGHUP) changes nothing.
        process.hang_up();
        thread::sleep(Duration::from_millis(300));
        assert!(process.is_running());
        signal(&process);
        ends_at_once(&process, name);
        let said = "a second signal: leaving at once, 1 requests are not finished";
        process.wait_for_line(
            |line| line.starts_with("WARNING:") && line.ends_with(said),
            SOON,
        );
        call.join().unwrap();
        assert_eq!(left_behind(&etcd), Vec::<String>::new());
    }
}

#[test]
fn a_second_signal_ends_a_server_whose_executor_is_blocked() {
    let etcd = Etcd::start();
    let (process, call) = draining(&etcd, "sleepy.block");
    process.wait_for_line(
        |line| line.contains("the executor of the functions has been blocked"),
        SOON,
    );
    process.terminate();
    process.interrupt();
    let began = Instant::now();
    let status = process.wait(SOON);
    assert!(
        began.elapsed() < AT_ONCE && status.code() == Some(1),
        "{status} after {:?}",
        began.elapsed()
    );
    process.wait_for_line(
        |line| line.starts_with("ERROR:") && line.contains("a second signal: exiting at once"),
        SOON,
    );
    call.join().unwrap();
}
