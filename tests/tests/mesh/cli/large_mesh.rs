//! palm-cli in a mesh of hundreds of servers, which are simulated.

use super::world::{SOON, World};
use crate::simulated::{Mode, Swarm, SwarmConfig};
use palm_tests::eventually;
use std::time::Duration;
use uuid::Uuid;

const SERVERS: usize = 300;
/// Over how much time a mesh comes back that is as slow as one of a thousand servers
/// on a busy machine.
const SLOW: Duration = Duration::from_secs(12);

/// Servers that have registered, and come back within this after a reset.
fn swarm(world: &World, count: usize, rejoin_within: Duration) -> (Swarm, Vec<Uuid>) {
    let swarm = Swarm::start(SwarmConfig {
        etcd: world.etcd.endpoint(),
        ttl: Duration::from_secs(30),
        rejoin_within,
    });
    let uuids = swarm.add("many", count);
    eventually("all servers are registered", SOON, || {
        (swarm.registered() == count).then_some(())
    });
    (swarm, uuids)
}

#[test]
fn a_reset_waits_for_a_large_mesh_while_its_servers_return() {
    crate::heavy();
    let world = World::new();
    let (swarm, _) = swarm(&world, SERVERS, SLOW);
    let said = world.cli(&["reset", "--yes"]).done();
    assert!(
        said.starts_with("Cleared the mesh of 300 servers\n300 of 300 servers came back within "),
        "{said}"
    );
    assert_eq!(said.lines().count(), 2, "nobody is missing: {said}");
    assert_eq!(world.keys("/servers/").len(), SERVERS);
    assert_eq!(swarm.registered(), SERVERS);
}

#[test]
fn a_reset_of_a_large_mesh_names_only_the_missing() {
    crate::heavy();
    let world = World::new();
    let (swarm, uuids) = swarm(&world, SERVERS, SLOW);
    swarm.set(&uuids[..5], Mode::Mute);
    let said = world.cli(&["reset", "--yes"]).done();
    let mut lines = said.lines().skip(1);
    let back = lines.next().unwrap_or_default();
    assert!(
        back.starts_with("295 of 300 servers came back within "),
        "{said}"
    );
    assert!(
        back.ends_with(" s, and none within the 5.0 s after that"),
        "{said}"
    );
    let mut missing: Vec<_> = lines
        .filter_map(|line| line.strip_prefix("  missing: ")?.get(..36))
        .collect();
    let mut expected: Vec<_> = uuids[..5].iter().map(ToString::to_string).collect();
    missing.sort_unstable();
    expected.sort_unstable();
    assert_eq!(missing, expected);
}

#[test]
fn a_status_is_one_read_without_a_candidate_for_each_server() {
    crate::heavy();
    let world = World::new();
    let leader = world.server();
    let (swarm, _) = swarm(&world, SERVERS, SLOW);
    eventually("all servers are published", SOON, || {
        (swarm.count("/pipelines/")?.0 == SERVERS + 1).then_some(())
    });
    let stored: usize = world
        .etcd
        .etcdctl(&["get", "--prefix", "--print-value-only", "/servers/"])
        .len();
    let before = world.etcd.metrics();
    let status = world.cli(&["status"]).done();
    let after = world.etcd.metrics();
    let asked = |method: &str| {
        let label = format!("grpc_method=\"{method}\"");
        after.sum("grpc_server_started_total", &label)
            - before.sum("grpc_server_started_total", &label)
    };
    assert_eq!(asked("Txn").to_string(), "1", "one read");
    assert!(
        asked("Range") <= 1.0,
        "and one request at most that finds out whether etcd answers"
    );
    let sent = |metrics: &palm_tests::Metrics| {
        metrics.sum("etcd_network_client_grpc_sent_bytes_total", "")
    };
    // Beside each record, its key and revisions. A candidate is another 100 bytes.
    #[allow(clippy::cast_precision_loss)]
    let expected = (stored + SERVERS * 80 + 5000) as f64;
    assert!(
        sent(&after) - sent(&before) < expected,
        "{} bytes",
        sent(&after) - sent(&before)
    );
    let words = format!(
        "301 servers of 2 names: 301 configured, 0 waiting; {} leads\n",
        leader.uuid
    );
    assert!(status.ends_with(&words), "{status}");
}
