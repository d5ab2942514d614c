//! Clients that prefer the servers of their own zone.

use crate::{
    common::{Mesh, QUICK, SOON, Server},
    in_process::{InProcess, call, client, sees},
};
use futures::{StreamExt as _, executor::block_on, stream};
use palm_peer::{Bytes, CallErrorKind, Client, Config, FunctionError, Message};
use palm_tests::{Etcd, Process, eventually, example};
use std::collections::BTreeSet;

/// A server whose function answers with its zone.
fn start(mesh: &Mesh, name: &str, zone: &'static str) -> InProcess {
    let server =
        palm_peer::Server::new(name).function("where", move |message: Message| async move {
            Ok::<_, FunctionError>([message.payload(), zone.as_bytes()].concat())
        });
    InProcess::start(server, mesh.options().zone(zone.into()))
}

fn in_zone(config: Config, zone: &str) -> Config {
    config.zone(zone.into()).prefer_zone(true)
}

fn zones(client: &Client, target: &str) -> BTreeSet<Bytes> {
    (0..40)
        .map(|_| call(client, target, "").expect("an answer"))
        .collect()
}

/// Runs a job, and returns its different results.
fn paths(client: &Client, pipeline: &[&str]) -> BTreeSet<Bytes> {
    let messages = stream::iter((0..40).map(|_| Bytes::new()));
    let results = client.job(pipeline.iter().copied()).run(messages);
    let results = block_on(results.expect("all are there").collect::<Vec<_>>());
    let results = results
        .into_iter()
        .map(|(_, result)| result.expect("a result"));
    results.collect()
}

fn only(zones: &[&str]) -> BTreeSet<Bytes> {
    zones
        .iter()
        .map(|zone| Bytes::copy_from_slice(zone.as_bytes()))
        .collect()
}

#[test]
fn calls_and_jobs_stay_in_their_zone_while_it_can_answer() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    // No stage `b` is in zone x.
    let y = [("a", "y"), ("a", "y"), ("b", "y")].map(|(name, zone)| start(&mesh, name, zone));
    let x = [("a", "x"), ("a", "x")].map(|(name, zone)| start(&mesh, name, zone));
    let everywhere = client(mesh.options(), "a", 4);
    let near = client(in_zone(mesh.options(), "x"), "a", 4);
    sees(&near, "b", 1);
    assert_eq!(zones(&everywhere, "a.where"), only(&["x", "y"]));
    assert_eq!(zones(&near, "a.where"), only(&["x"]));
    assert_eq!(zones(&near, "b.where"), only(&["y"]));
    assert_eq!(paths(&near, &["a.where", "b.where"]), only(&["xy"]));
    // An instance of another zone is called when it is meant.
    let far = format!("{}.where", y[0].peer.uuid());
    assert_eq!(zones(&near, &far), only(&["y"]));

    // The zone's instances go, one after the other, and one of them returns.
    let [one, two] = x;
    drop(one);
    sees(&near, "a", 3);
    assert_eq!(zones(&near, "a.where"), only(&["x"]));
    two.peer.set_ready(false);
    sees(&near, "a", 2);
    assert_eq!(zones(&near, "a.where"), only(&["y"]));
    assert_eq!(paths(&near, &["b.where", "a.where"]), only(&["yy"]));
    two.peer.set_ready(true);
    sees(&near, "a", 3);
    assert_eq!(zones(&near, "a.where"), only(&["x"]));
    assert!(y.iter().any(|server| server.peer.state().leading));
}

#[test]
fn another_zone_takes_over_when_the_last_instance_of_one_dies() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let start = |zone: &str| -> Server {
        let program = Process::builder(example("printf"))
            .args(["run", "--etcd", &etcd.endpoint()])
            .args(QUICK)
            .env("PALM_ZONE", zone);
        mesh.start_program(program)
    };
    let (y, x) = (start("y"), start("x"));
    mesh.await_published(&[&y.uuid, &x.uuid]);
    let client = client(in_zone(mesh.options(), "x"), "printf", 2);
    // One that was frozen is not published for a while.
    let requests = |server: &Server| {
        let ping = call(&client, &format!("{}._ping", server.uuid), "").ok()?;
        let ping: serde_json::Value = serde_json::from_slice(&ping).ok()?;
        ping["requests"].as_u64()
    };
    let calls = || (0..30).map(|_| call(&client, "printf.printf", "hello"));
    calls().for_each(|answer| assert_eq!(answer.expect("both are alive"), "hello"));
    assert_eq!((requests(&x), requests(&y)), (Some(30), Some(0)));
    // A frozen one is left as well, and used again when it answers.
    x.freeze();
    eventually("the other zone is called", SOON, || {
        let answer = client.call("printf.printf", "hello");
        let answer = block_on(
            answer
                .timeout(std::time::Duration::from_secs(3))
                .into_future(),
        );
        answer.is_ok().then_some(())
    });
    assert!(requests(&y) > Some(0));
    x.thaw();
    eventually("the own zone is called again", SOON, || {
        let before = requests(&x)?;
        (calls().all(|answer| answer.is_ok()) && requests(&x) == Some(before + 30)).then_some(())
    });

    x.kill();
    let mut failed = 0;
    for answer in calls() {
        // The call during which it dies may have run there.
        match answer {
            Ok(answer) => assert_eq!(answer, "hello"),
            Err(error) => {
                assert_eq!(error.kind(), CallErrorKind::Unreachable, "{error}");
                failed += 1;
            }
        }
    }
    assert!(failed <= 1, "{failed} calls failed");
}
