//! Servers that are not ready: in the mesh, but not called.

use crate::{
    common::{Mesh, QUICK, SOON, history::Event, running_job::while_a_job_runs},
    in_process::{InProcess, Stranger, call, client, sees},
};
use futures::{FutureExt as _, channel::oneshot, executor::block_on, future::Shared};
use palm_peer::{CallErrorKind, Client, FunctionError, Message, Server};
use palm_tests::{Etcd, Process, binary, eventually, example};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// A server whose function answers with its name in the test, and counts.
fn named(name: &'static str, count: &Arc<AtomicUsize>) -> Server {
    let count = Arc::clone(count);
    Server::new("maintained").function("who", move |_: Message| {
        count.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, FunctionError>(name) }
    })
}

fn simple(name: &str) -> Server {
    Server::new(name).function("echo", crate::in_process::echo)
}

fn record(mesh: &Mesh, server: &InProcess) -> Option<Value> {
    let state = mesh.state();
    let record = state.get(&format!("/servers/{}", server.peer.uuid()))?;
    Some(record.json())
}

fn is_published(mesh: &Mesh, server: &InProcess) -> bool {
    let uuid = server.peer.uuid().to_string();
    let publishes = |key: &String| key.starts_with("/pipelines/") && key.ends_with(&uuid);
    mesh.state().keys().any(publishes)
}

/// Waits until a leader has configured the server, which is not ready, since this many writes.
#[track_caller]
fn await_resting(mesh: &Mesh, server: &InProcess) {
    eventually("it is configured and not ready", SOON, || {
        let record = record(mesh, server)?;
        let (_, leader) = mesh.leading()?;
        let resting = record["configured"] == true
            && record["ready"] == false
            && record["leader"] == leader.as_str()
            && !server.peer.state().ready
            && server.peer.state().attached;
        resting.then_some(())
    });
    assert!(!is_published(mesh, server));
}

#[test]
fn a_server_that_is_not_ready_is_not_called_until_it_is() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let (ones, twos) = (Arc::default(), Arc::default());
    let one = InProcess::start(named("one", &ones), mesh.options());
    let (open, opened) = oneshot::channel::<()>();
    let opened: Shared<_> = opened.shared();
    let waits = move |_: Message| {
        let opened = opened.clone();
        async move { Ok::<_, FunctionError>(opened.await.map_or("dropped", |()| "waited")) }
    };
    let two = named("two", &twos).function("wait", waits);
    let two = InProcess::start(two, mesh.options());
    let client = client(mesh.options(), "maintained", 2);
    let slow = {
        let client = client.clone();
        thread::spawn(move || call(&client, "maintained.wait", ""))
    };
    let waits = || two.peer.endpoint().to_owned();
    let mut stranger = Stranger::at(&waits());
    let in_flight = || {
        let (_, ping) = Stranger::at(&waits())
            .ask([&br#"{"palm":1,"pipeline":["maintained._ping"]}"#[..], b""]);
        let ping: Value = serde_json::from_slice(&ping).expect("JSON");
        (ping["in_flight"] == 1).then_some(())
    };
    eventually("the slow call runs", SOON, in_flight);

    two.peer.set_ready(false);
    sees(&client, "maintained", 1);
    await_resting(&mesh, &two);
    for _ in 0..20 {
        assert_eq!(
            call(&client, "maintained.who", "").expect("one is ready"),
            "one"
        );
    }
    let by_uuid = format!("{}.who", two.peer.uuid());
    let error = call(&client, &by_uuid, "").expect_err("it is not ready");
    assert_eq!(error.kind(), CallErrorKind::NoSuchServer, "{error}");
    assert_eq!(twos.load(Ordering::Relaxed), 0);
    // What runs, and what still arrives, is answered.
    let late = [&br#"{"palm":1,"pipeline":["maintained.who"]}"#[..], b""];
    assert_eq!(stranger.ask(late).1, "two");
    assert!(open.send(()).is_ok(), "the slow call waits");
    assert_eq!(slow.join().expect("no panic").expect("an answer"), "waited");

    two.peer.set_ready(true);
    sees(&client, "maintained", 2);
    assert_eq!(call(&client, &by_uuid, "").expect("it is ready"), "two");
    eventually("its state is known", SOON, || {
        let state = two.peer.state();
        (state.ready && state.configured).then_some(())
    });
    let stored = record(&mesh, &two).expect("a record");
    assert_eq!(stored.get("ready"), None, "{stored}");
    assert!(one.peer.state().leading);
}

#[test]
fn the_last_word_counts_however_often_readiness_changes() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let server = InProcess::start(simple("fickle"), mesh.options());
    for round in 0..10 {
        for change in 0..50 {
            server.peer.set_ready(change % 2 == 1);
            if change % 7 == round {
                thread::yield_now();
            }
        }
        server.peer.set_ready(round % 2 == 1);
    }
    eventually("it is published", SOON, || {
        is_published(&mesh, &server).then_some(())
    });
    server.peer.set_ready(false);
    await_resting(&mesh, &server);
    // Nothing more happens: neither side writes what the other has written before.
    let mark = mesh.history().mark();
    let other = InProcess::start(simple("other"), mesh.options());
    eventually("the other is published", SOON, || {
        is_published(&mesh, &other).then_some(())
    });
    let uuid = server.peer.uuid().to_string();
    let own = mesh.history().events_after(mark);
    assert!(
        own.iter().all(|event| !event.key.contains(&uuid)),
        "{own:?}"
    );
}

#[test]
fn a_leader_that_is_not_ready_leads_and_stays_so_through_everything() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let resting = simple("resting").ready(false).version("1.4.2").tag("gpu");
    let resting = InProcess::start(resting, mesh.options().zone("eu-1".into()));
    await_resting(&mesh, &resting);
    assert!(resting.peer.state().leading);
    let second = InProcess::start(simple("second"), mesh.options());
    let client = client(mesh.options(), "second", 1);
    assert_eq!(client.reachable().len(), 1);

    // Another leader: its lease is revoked, and it registers anew on another one.
    let key = format!("/mesh/servers/{}", resting.peer.uuid());
    let lease = || {
        let json = etcd.etcdctl(&["get", &key, "--write-out=json"]);
        let json: Value = serde_json::from_str(&json).expect("JSON");
        json["kvs"][0]["lease"].as_u64()
    };
    let old = lease().expect("a lease");
    etcd.etcdctl(&["lease", "revoke", &format!("{old:x}")]);
    eventually("the other leads", SOON, || {
        second.peer.state().leading.then_some(())
    });
    eventually("it has another lease", SOON, || {
        lease().filter(|new| *new != old)
    });
    await_resting(&mesh, &resting);
    // And back: the leader leaves.
    drop(second);
    eventually("it leads again", SOON, || {
        resting.peer.state().leading.then_some(())
    });
    await_resting(&mesh, &resting);
    // The mesh is reset.
    mesh.reset();
    await_resting(&mesh, &resting);
    let stored = record(&mesh, &resting).expect("a record");
    assert_eq!(
        (&stored["version"], &stored["zone"], &stored["tags"][0]),
        (&"1.4.2".into(), &"eu-1".into(), &"gpu".into())
    );
    let events = mesh.history().events();
    let shown = events
        .iter()
        .filter(|event| event.key.starts_with("/pipelines/resting/"));
    assert_eq!(
        shown.filter(|event| !event.deleted).count(),
        0,
        "never published"
    );
}

#[test]
fn readiness_that_changes_during_an_outage_is_known_afterwards() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let [one, two] = [(); 2].map(|()| InProcess::start(simple("a"), mesh.options()));
    two.peer.set_ready(false);
    await_resting(&mesh, &two);
    etcd.stop();
    one.peer.set_ready(false);
    two.peer.set_ready(true);
    assert!(
        one.peer.state().ready && !two.peer.state().ready,
        "etcd has not heard of it"
    );
    etcd.restart();
    let again = Mesh::new(&etcd, "/mesh", &QUICK);
    await_resting(&again, &one);
    eventually("the other is back", SOON, || {
        is_published(&again, &two).then_some(())
    });
}

#[test]
fn a_job_loses_nothing_while_servers_are_taken_out_of_service() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let start = |name: &'static str| {
        let server = Server::new(name).function("add", move |message: Message| async move {
            Ok::<_, FunctionError>([message.payload(), name.as_bytes()].concat())
        });
        InProcess::start(server, mesh.options())
    };
    let servers = ["a", "b", "a", "b"].map(start);
    let client = client(mesh.options(), "a", 2);
    sees(&client, "b", 2);
    while_a_job_runs(&client, |progress| {
        let goes_on = || {
            let before = progress.done();
            eventually("the job goes on", SOON, || {
                (progress.done() > before + 200).then_some(())
            });
        };
        for _ in 0..2 {
            for server in &servers {
                server.peer.set_ready(false);
                eventually("it is out", SOON, || {
                    (!is_published(&mesh, server)).then_some(())
                });
                goes_on();
                server.peer.set_ready(true);
                eventually("it is back", SOON, || {
                    is_published(&mesh, server).then_some(())
                });
            }
        }
        // Both of a stage: the messages wait for the first that is back.
        for server in [&servers[1], &servers[3]] {
            server.peer.set_ready(false);
            eventually("it is out", SOON, || {
                (!is_published(&mesh, server)).then_some(())
            });
        }
        servers[1].peer.set_ready(true);
        goes_on();
    });
}

#[test]
fn a_panic_while_readiness_is_written_only_delays_it() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let program = Process::builder(example("maintained"))
        .args([
            "run",
            "--etcd",
            &etcd.endpoint(),
            "--zone",
            "eu-1",
            "--tags",
            "canary",
        ])
        .args(QUICK)
        .env("PALM_TEST_PANIC", "readiness");
    let server = mesh.start_program(program);
    mesh.await_published(&[&server.uuid]);
    let published = |state: &BTreeMap<String, Event>| {
        let key = format!("/pipelines/maintained/{}", server.uuid);
        state.get(&key).map(Event::json)
    };
    let instance = published(&mesh.state()).expect("published");
    assert_eq!(instance["zone"], "eu-1", "{instance}");
    let client = block_on(Client::connect(mesh.options())).expect("connects");
    assert_eq!(
        call(&client, "maintained.off", "").expect("it is ready"),
        "done"
    );
    server.wait_for_line(|line| line.contains("task readiness panicked"), SOON);
    eventually("it is not published", SOON, || {
        published(&mesh.state()).is_none().then_some(())
    });
    let record = mesh.state()[&format!("/servers/{}", server.uuid)].json();
    assert_eq!(record["tags"], serde_json::json!(["gpu", "canary"]));
    let back = [&br#"{"palm":1,"pipeline":["maintained.on"]}"#[..], b""];
    assert_eq!(Stranger::at(&server.endpoint).ask(back).1, "done");
    mesh.await_published(&[&server.uuid]);
}

#[test]
fn palm_cli_shows_and_asks_a_leader_that_is_not_ready() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let start = |zone: &str| {
        let program = Process::builder(example("maintained"))
            .args(["run", "--etcd", &etcd.endpoint(), "--zone", zone])
            .args(QUICK);
        let server = mesh.start_program(program);
        mesh.await_published(&[&server.uuid]);
        server
    };
    let (leader, other) = (start("eu-1"), start("eu-2"));
    let off = [&br#"{"palm":1,"pipeline":["maintained.off"]}"#[..], b""];
    assert_eq!(Stranger::at(&leader.endpoint).ask(off).1, "done");
    let palm_cli = |args: &[&str]| {
        let output = std::process::Command::new(binary("palm-cli"))
            .args(["--etcd", &etcd.endpoint(), "--prefix", "/mesh"])
            .args(args)
            .output()
            .expect("palm-cli runs");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let table = eventually("it is shown", SOON, || {
        let table = palm_cli(&["status"]);
        table.contains("leader, not ready").then_some(table)
    });
    let line = table.lines().find(|line| line.contains(&leader.uuid));
    let line = line.expect("a line for the leader");
    for text in ["1.4.2", "eu-1", "gpu"] {
        assert!(line.contains(text), "{table}");
    }
    assert!(
        table.contains("2 configured, 0 waiting, 1 not ready"),
        "{table}"
    );
    let filtered = palm_cli(&["status", "--json", "--zone", "eu-2", "--tag", "gpu"]);
    let filtered: Value = serde_json::from_str(&filtered).expect("JSON");
    assert_eq!(filtered.as_array().map(Vec::len), Some(1));
    assert_eq!(filtered[0]["uuid"], other.uuid.as_str());
    // What is about servers asks it; what calls functions leaves it out.
    let stats: Value = serde_json::from_str(&palm_cli(&["stats", "--json"])).expect("JSON");
    let asked = stats.as_array().expect("a list");
    assert!(
        asked.iter().all(|server| server["requests"].is_u64()),
        "{stats}"
    );
    assert_eq!(asked.len(), 2);
    assert!(palm_cli(&["logs", "registry"]).contains("is not ready"));
    assert_eq!(
        palm_cli(&["call", "--all", "maintained.on"])
            .lines()
            .count(),
        1
    );
}
