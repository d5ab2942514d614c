//! etcd behind a network that swallows: a member out of three, and names that lead nowhere.

use crate::common::{Mesh, SOON, Server};
use palm_tests::{Etcd, EtcdCluster, Host, Network, eventually, example};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// The time to live of the lease, which nothing here may cost.
const TTL: Duration = Duration::from_secs(10);

/// A server on this host that finds etcd at these URLs. All times are the defaults.
fn start(mesh: &Mesh<'_>, host: &Host, etcd: &str) -> Server {
    let address = host.address().to_string();
    let server = mesh.start_program(
        host.builder(example("printf"))
            .args(["run", "--etcd", etcd, "--ip", &address]),
    );
    mesh.await_published(&[&server.uuid]);
    server
}

/// Watches until a lease that is not renewed would have expired: this one was.
fn keeps_its_lease(mesh: &Mesh<'_>, server: &Server, lease: u64, since: Instant) {
    loop {
        let record = mesh
            .state()
            .get(&format!("/servers/{}", server.uuid))
            .map(|record| record.lease);
        assert_eq!(
            record,
            Some(lease),
            "its record is on the lease that it had: {:?}",
            server.lines()
        );
        if since.elapsed() > TTL + Duration::from_secs(2) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(
        server.lines_with("etcd is in doubt").is_empty(),
        "{:?}",
        server.lines()
    );
}

fn lease(mesh: &Mesh<'_>, server: &Server) -> u64 {
    mesh.state()[&format!("/servers/{}", server.uuid)].lease
}

#[test]
fn a_black_holed_etcd_member_is_left_before_lease_doubt() {
    let Some(network) = Network::start(&["a", "b"]) else {
        return;
    };
    let cluster = EtcdCluster::start_at(network.here().address());
    let all = cluster.endpoints().join(",");
    let mesh = Mesh::new(cluster.member(0), "/mesh", &[]);
    let a = network.host("a");
    let server = start(&mesh, a, &all);

    let renewals = |i: usize| {
        cluster.member(i).metric_where(
            "grpc_server_started_total",
            "grpc_method=\"LeaseKeepAlive\"",
        )
    };
    let used = eventually("a member renews its lease", TTL, || {
        (0..3).find(|i| renewals(*i) > 0.0)
    });
    let lease = lease(&mesh, &server);
    let cut = Instant::now();
    let SocketAddr::V4(address) = cluster.member(used).address() else {
        panic!("the network has IPv4 alone")
    };
    network.black_hole_endpoint(a, address);
    eventually("another member renews its lease", TTL, || {
        (0..3).any(|i| i != used && renewals(i) > 0.0).then_some(())
    });
    eprintln!("another member renews the lease after {:?}", cut.elapsed());
    keeps_its_lease(&mesh, &server, lease, cut);

    // Its watches have moved as well: it sees who is new, and configures it.
    let late = start(&mesh, network.host("b"), &all);
    // And a start behind that network needs no luck.
    let more: Vec<_> = (0..3).map(|_| start(&mesh, a, &all)).collect();
    network.heal();
    for server in [&server, &late].into_iter().chain(&more) {
        assert!(server.is_running() && mesh.is_registered(&server.uuid));
    }
}

#[test]
fn etcd_is_reached_behind_a_black_holed_first_address() {
    let Some(network) = Network::start(&["a"]) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let a = network.host("a");
    let at = |name: &str| format!("http://{name}:{}", etcd.address().port());
    for addresses in [
        [network.spare(), network.here().address()],
        [network.here().address(), network.spare()],
    ] {
        a.know(&addresses.map(|address| ("etcd.test", address)));
        let began = Instant::now();
        let server = start(&mesh, a, &at("etcd.test"));
        eprintln!("published after {:?}", began.elapsed());
        server.terminate();
        assert!(server.wait(SOON).success(), "{:?}", server.lines());
    }
}

#[test]
fn an_etcd_name_that_hangs_is_skipped() {
    let Some(network) = Network::start(&["a"]) else {
        return;
    };
    let etcd = Etcd::builder().at(network.here().address()).start();
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let a = network.host("a");
    a.ask_nameserver(network.spare());
    let server = start(
        &mesh,
        a,
        &format!(
            "http://hung1.test:2379,http://hung2.test:2379,{}",
            etcd.endpoint()
        ),
    );
    keeps_its_lease(&mesh, &server, lease(&mesh, &server), Instant::now());
}
