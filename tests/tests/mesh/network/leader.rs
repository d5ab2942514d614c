//! A leader whose connection to a healthy server is swallowed.

use super::client::start_with;
use crate::common::{Mesh, QUICK, SOON};
use palm_tests::{Etcd, Network};

#[test]
fn a_leader_replaces_a_black_holed_probe_connection() {
    let Some(network) = Network::start(&["a", "b"]) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let leader = start_with(&mesh, &etcd, network.host("a"), "printf", &QUICK);
    let server = start_with(&mesh, &etcd, network.host("b"), "printf", &QUICK);

    let old = network.host("a").flow_to(&server.endpoint);
    network.black_hole(old);
    for _ in 0..8 {
        leader.wait_for_line_after(
            leader.mark(),
            |line| line.contains("Found 2 servers, probing all of them"),
            SOON,
        );
    }
    let lines = leader.lines();
    for wrong in ["missed probe", "Deleted server"] {
        let found: Vec<_> = lines.iter().filter(|line| line.contains(wrong)).collect();
        assert!(found.is_empty(), "{found:?}");
    }
}
