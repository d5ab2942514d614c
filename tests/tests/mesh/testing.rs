//! What users test their own servers with.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::in_process::{SOON, echo};
use futures::{executor::block_on, future::join};
use palm_peer::{
    Client, ErrorKind, FunctionError, Server,
    testing::{Etcd, RunningServer},
};
use std::time::{Duration, Instant};

fn server() -> Server {
    Server::new("text").function("echo", echo)
}

#[test]
fn wait_for_ends_with_the_second_instance_and_its_error_counts() {
    let etcd = Etcd::start().unwrap();
    let config = || etcd.config().prefix("/waiting".into());
    block_on(async {
        let client = Client::connect(config()).await.unwrap();
        let none = client.wait_for("text", 1, Duration::ZERO).await;
        let none = none.expect_err("there is no server");
        assert_eq!(none.kind(), ErrorKind::TimedOut);
        let text = none.to_string();
        assert!(text.starts_with("0 of 1 instances of text "), "{text}");
        assert!(text.ends_with("no server is published"), "{text}");

        let _first = RunningServer::start(server(), config()).await.unwrap();
        let second = async { RunningServer::start(server(), config()).await.unwrap() };
        let (waited, second) = join(client.wait_for("text", 2, SOON), second).await;
        waited.unwrap();
        let began = Instant::now();
        let third = client.wait_for("text", 3, Duration::from_millis(200)).await;
        let text = third.expect_err("there are two").to_string();
        assert!(text.starts_with("2 of 3 instances of text "), "{text}");
        assert!(began.elapsed() >= Duration::from_millis(200));
        let other = client.wait_for("test", 1, Duration::ZERO).await;
        let text = other.expect_err("there is no such server").to_string();
        assert!(text.ends_with("the published servers are text"), "{text}");

        second.stop().await.unwrap();
        assert_eq!(client.call("text.echo", "hello").await.unwrap(), "hello");
    });
}

#[test]
fn a_running_server_runs_on_the_executor_that_it_is_given() {
    let etcd = Etcd::start().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build();
    runtime.unwrap().block_on(async {
        // tokio's timers panic elsewhere.
        let server = server().function("wait", async |_: palm_peer::Message| {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok::<_, FunctionError>("waited")
        });
        let spawn = |serving| drop(tokio::spawn(serving));
        let running = RunningServer::start_on(server, etcd.config(), spawn)
            .await
            .unwrap();
        let client = Client::connect(etcd.config()).await.unwrap();
        assert_eq!(client.call("text.wait", "").await.unwrap(), "waited");
        running.stop().await.unwrap();
    });
}

/// What stays of a test's processes is what a shell started for them: it ends with the test.
#[test]
fn an_etcd_ends_when_its_test_is_killed() {
    use palm_tests::{Process, eventually};

    let holder = Process::builder(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "testing::holds_an_etcd",
            "--nocapture",
            "--ignored",
        ])
        .start();
    let (line, _) = holder.wait_for_line(|line| line.contains("etcd at "), SOON);
    let address = line.rsplit("http://").next().unwrap().trim().to_owned();
    assert!(std::net::TcpStream::connect(&address).is_ok());
    drop(holder);
    eventually("etcd has ended", SOON, || {
        std::net::TcpStream::connect(&address)
            .is_err()
            .then_some(())
    });
}

/// The process that the test above kills.
#[test]
#[ignore = "it is started by an_etcd_ends_when_its_test_is_killed"]
fn holds_an_etcd() {
    let etcd = Etcd::start().unwrap();
    println!("etcd at {}", etcd.endpoint());
    std::thread::sleep(Duration::from_secs(60));
}
