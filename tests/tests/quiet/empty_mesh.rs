//! What a leader says of a mesh without servers. Beside other leaders in the same process their
//! lines would mix.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::in_process::{self, InProcess, SOON, call, client, echo, settings};
use palm_peer::{FunctionError, Message, Server};
use palm_tests::{Etcd, eventually};
use std::{
    sync::{Mutex, mpsc},
    time::Duration,
};

/// Keeps what the duties of a leader inside this process log.
struct Log(Mutex<Vec<String>>);

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        ["registry", "pipeliner"].contains(&metadata.target())
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0
                .lock()
                .unwrap()
                .push(format!("{}:{}", record.target(), record.args()));
        }
    }

    fn flush(&self) {}
}

static LOG: Log = Log(Mutex::new(Vec::new()));

/// A leader without any server is one whose own functions block: it finds itself
/// mute, and leads on.
#[test]
fn an_empty_mesh_logs_that_until_a_server_joins() {
    let _quiet = crate::alone();
    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let etcd = Etcd::start();
    let (unblock, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let blocks = move |_: Message| {
        let _ = blocked.lock().unwrap().recv();
        async { Ok::<_, FunctionError>("") }
    };
    let period = Duration::from_millis(500);
    let settings = settings(&etcd)
        .probe_period(period)
        .probe_timeout(period / 5);
    let server = Server::new("blocked")
        .function("blocks", blocks)
        .function("echo", echo);
    let server = InProcess::start(server, settings.clone());
    let client = client(settings, "blocked", 1);
    let mut stranger = in_process::Stranger::at(server.peer.endpoint());
    stranger.say([r#"{"palm":1,"pipeline":["blocked.blocks"]}"#]);

    let uuid = server.peer.uuid();
    let deleted = format!("registry:Deleted server {uuid} because it does not answer");
    let guide = [
        "registry:No servers found",
        "registry:0 dead servers",
        "registry:0 servers remaining",
    ];
    let list = [
        "pipeliner:You have no server running",
        "pipeliner:***** List of servers *****",
        "pipeliner:***************************",
    ];
    eventually("pylm's lines of a mesh without servers", SOON, || {
        let lines = LOG.0.lock().unwrap();
        let gone = lines.iter().position(|line| *line == deleted)?;
        let empty = lines[gone..]
            .windows(6)
            .any(|six| six[..3] == guide && six[3..] == list);
        empty.then_some(())
    });
    let state = || Some(server.peer.state()).filter(|state| !state.configured && state.leading);
    eventually(
        "the server knows that it is removed, and leads",
        SOON,
        state,
    );
    in_process::sees(&client, "blocked", 0);
    drop(unblock);
    in_process::sees(&client, "blocked", 1);
    assert_eq!(call(&client, "blocked.echo", "back").unwrap(), "back");
    let configured = format!("registry:Server {uuid} configured");
    assert_eq!(
        LOG.0
            .lock()
            .unwrap()
            .iter()
            .filter(|line| **line == configured)
            .count(),
        2
    );
}
