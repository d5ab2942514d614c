//! The simulated servers behave as real ones do, as far as the rest of the mesh can see.

use crate::{
    common::{Mesh, QUICK, SOON},
    simulated::{Mode, Swarm, SwarmConfig},
};
use futures::executor::block_on;
use palm_peer::Client;
use palm_tests::{Etcd, eventually};
use std::time::Duration;

const SERVERS: usize = 40;

fn swarm(etcd: &Etcd) -> Swarm {
    let (ttl, rejoin_within) = (Duration::from_secs(5), Duration::from_millis(100));
    Swarm::start(SwarmConfig {
        etcd: etcd.endpoint(),
        ttl,
        rejoin_within,
    })
}

fn await_published(swarm: &Swarm, count: usize, what: &str) {
    eventually(what, 2 * SOON, || {
        (swarm.count("/pipelines/")?.0 == count).then_some(())
    });
}

#[test]
fn simulated_servers_fail_and_return_as_real_ones_do() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "", &QUICK);
    let leader = mesh.start("printf");
    let swarm = swarm(&etcd);
    let servers = swarm.add("many", SERVERS);
    await_published(&swarm, SERVERS + 1, "all are published");
    let client = block_on(Client::connect(mesh.options())).expect("etcd answers");
    let answer = block_on(client.call("many.echo", "hello").into_future());
    assert_eq!(answer.expect("an answer"), "hello");

    swarm.set(&servers[..3], Mode::Killed);
    await_published(&swarm, SERVERS - 2, "those that were killed are removed");
    swarm.set(&servers[3..5], Mode::Mute);
    await_published(&swarm, SERVERS - 4, "those that are mute are removed");
    leader.wait_for_line(|line| line.ends_with("because it does not answer"), SOON);
    swarm.set(&servers[..5], Mode::Alive);
    await_published(&swarm, SERVERS + 1, "those that live again are back");

    let before = swarm.rejoined();
    swarm.lose_leases(&servers[5..9]);
    eventually("those without a lease register again", SOON, || {
        (swarm.rejoined() >= before + 4).then_some(())
    });
    await_published(&swarm, SERVERS + 1, "those that lost their leases are back");
}

#[test]
fn a_simulated_server_lets_real_ones_lead() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "", &QUICK);
    let line = mesh.start_in_line("printf", 2);
    let swarm = swarm(&etcd);
    swarm.add("many", SERVERS);
    await_published(&swarm, SERVERS + 2, "all are published");
    line[0].kill();
    mesh.await_lead(&line[1].uuid, SOON);
    // Now simulated ones are first in line, and there are no others.
    line[1].kill();
    let late = mesh.start("printf");
    mesh.await_lead(&late.uuid, SOON);
    await_published(
        &swarm,
        SERVERS + 1,
        "the new leader publishes all, itself among them",
    );
}
