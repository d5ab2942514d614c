//! A stage in Python whose connections are swallowed.

use super::client::start_with;
use crate::{
    common::{Mesh, QUICK, SOON},
    python_stage::run_by,
};
use futures::{StreamExt as _, executor::block_on};
use palm_peer::{Bytes, Client};
use palm_tests::{Etcd, Network, eventually, example, python};
use std::time::{Duration, Instant};

/// The design allows 5 s, and a busy machine some more.
const BOUND: Duration = Duration::from_secs(8);

#[test]
fn a_python_stage_replaces_a_black_holed_connection() {
    let (Some(network), Some(python)) = (Network::start(&["p", "r"]), python()) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let [p, r] = ["p", "r"].map(|host| network.host(host));
    let stage =
        r.builder(example("stage"))
            .args(["run", "--etcd", &etcd.endpoint(), "--ttl", "30"]);
    let rust = mesh.start_program(
        stage
            .args(["--ip", &r.address().to_string()])
            .env("PALM_TEST_STAGE", "a"),
    );
    let run = run_by(
        p.builder(&python),
        "examples/python/server.py",
        &etcd.endpoint(),
    );
    let pytext = mesh.start_program(run.args(["--ip", &p.address().to_string()]));
    mesh.await_published(&[&rust.uuid, &pytext.uuid]);
    let client = block_on(Client::connect(mesh.options())).expect("connects");
    eventually("the client sees both", SOON, || {
        (client.reachable().len() == 2).then_some(())
    });
    let job = |within: Duration| {
        let job = client.job(["pytext.reverse", "a.add"]).timeout(within);
        let results = job
            .run_iter(["abc"].into_iter().map(Bytes::from))
            .expect("there");
        block_on(results.collect::<Vec<_>>()).remove(0).1
    };
    assert_eq!(job(SOON).expect("it works"), "cbaa");

    // Idle, and cut off: found out by libzmq's heartbeats, before the next message is lost.
    let (mark, cut) = (pytext.mark(), Instant::now());
    network.black_hole(p.flow_to(&rust.endpoint));
    let dead = |line: &str| {
        line.contains(&rust.uuid) && line.contains("is dead: what is sent is not acknowledged")
    };
    let (_, found) = pytext.wait_for_line_after(mark, dead, SOON);
    eprintln!("an idle connection is found dead after {:?}", found - cut);
    assert!(found - cut < BOUND, "{:?}", found - cut);
    assert_eq!(job(BOUND).expect("over a new connection"), "cbaa");

    // With a message on its way.
    let (mark, cut) = (pytext.mark(), Instant::now());
    network.black_hole(p.flow_to(&rust.endpoint));
    let result = job(SOON).expect("it is sent again");
    eprintln!(
        "a message on its way had its result after {:?}",
        cut.elapsed()
    );
    assert_eq!(result, "cbaa");
    pytext.wait_for_line_after(mark, dead, SOON);

    // A stage that is frozen is no dead path: its host acknowledges what is sent.
    let (mark, flow) = (pytext.mark(), p.flow_to(&rust.endpoint));
    rust.freeze();
    std::thread::sleep(Duration::from_secs(6));
    rust.thaw();
    assert_eq!(p.flow_to(&rust.endpoint), flow);
    assert_eq!(job(SOON).expect("it goes on"), "cbaa");
    let lines = pytext.lines();
    assert_eq!(
        lines.iter().filter(|line| dead(line)).count(),
        2,
        "{mark:?}: {lines:#?}"
    );
}

#[test]
fn a_client_of_a_python_server_detects_a_black_hole() {
    let (Some(network), Some(python)) = (Network::start(&["p"]), python()) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let p = network.host("p");
    let leader = start_with(&mesh, &etcd, p, "printf", &QUICK);
    let run = run_by(
        p.builder(&python),
        "examples/python/server.py",
        &etcd.endpoint(),
    );
    let pytext = mesh.start_program(run.args(["--ip", &p.address().to_string()]));
    mesh.await_published(&[&leader.uuid, &pytext.uuid]);
    let client = block_on(Client::connect(mesh.options())).expect("connects");
    eventually("the client sees both", SOON, || {
        (client.reachable().len() == 2).then_some(())
    });
    let call = || {
        block_on(
            client
                .call("pytext.reverse", "abc")
                .timeout(SOON)
                .into_future(),
        )
    };
    assert_eq!(call().expect("it works"), "cba");
    network.black_hole(network.here().flow_to(&pytext.endpoint));
    let cut = Instant::now();
    let error = call().expect_err("it is swallowed");
    eprintln!("found out after {:?}: {error}", cut.elapsed());
    assert!(cut.elapsed() < BOUND, "{:?}", cut.elapsed());
    assert_eq!(call().expect("over a new connection"), "cba");
}
