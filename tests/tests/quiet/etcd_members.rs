//! Members of etcd on hosts of their own, of which one does not reach another: it accepts what it
//! is asked, and does not answer.

use crate::common::{Mesh, SOON, Server};
use palm_tests::{EtcdCluster, Host, Network, eventually, example};
use std::{
    thread,
    time::{Duration, Instant},
};

/// When a renewal is late, less time is left of a lease than two members may take to answer
/// nothing: 2 s, or 1 s for a connection.
const FLAGS: [&str; 6] = ["--ttl", "4", "--probe-period", "2", "--probe-timeout", "1"];
/// By when each lease that is not renewed would have ended.
const HOLD: Duration = Duration::from_secs(12);

/// What is done to the path between two hosts.
type Trouble = fn(&Network, &Host, &Host);

fn start(mesh: &Mesh<'_>, host: &Host, endpoints: &str) -> Server {
    let address = host.address().to_string();
    let run = host.builder(example("printf"));
    let run = run.args(["run", "--etcd", endpoints, "--ip", &address]);
    mesh.start_program(run.args(FLAGS))
}

/// The leases that the records of these servers are on.
fn leases(mesh: &Mesh<'_>, servers: &[Server]) -> Vec<Option<u64>> {
    let state = mesh.state();
    let lease = |server: &Server| Some(state.get(&format!("/servers/{}", server.uuid))?.lease);
    servers.iter().map(lease).collect()
}

/// The servers, the first of which leads, are on the host of the member that does not reach the
/// leading one, and like that one cannot reach it. Each begins with another member of etcd.
#[test]
fn leases_and_the_leaders_writes_survive_a_member_without_the_leading_one() {
    let _quiet = crate::alone();
    let Some(network) = Network::start(&["a", "b", "c"]) else {
        return;
    };
    let hosts = ["a", "b", "c"].map(|name| network.host(name));
    let [a, b, c] = hosts;
    let cluster = EtcdCluster::start_on(&hosts);
    let endpoints = cluster.endpoints().join(",");
    let troubles: [(&str, Trouble); 3] = [
        ("one way", Network::cut_one_way),
        ("both ways", Network::cut),
        ("the other way", |network, a, b| network.cut_one_way(b, a)),
    ];
    for (what, trouble) in troubles {
        // New servers do not know yet which members fail.
        let mesh = Mesh::new(
            cluster.member(2),
            &format!("/{}", what.replace(' ', "-")),
            &[],
        );
        let servers: Vec<Server> = (0..6).map(|_| start(&mesh, a, &endpoints)).collect();
        let uuids: Vec<&str> = servers.iter().map(|server| server.uuid.as_str()).collect();
        mesh.await_published(&uuids);
        cluster.move_leader_to(1);
        let before = leases(&mesh, &servers);
        let cut = Instant::now();
        trouble(&network, a, b);
        // The leader writes its record.
        let late = start(&mesh, c, &endpoints);
        mesh.await_published(&[&late.uuid]);
        println!("{what}: a server is published after {:.1?}", cut.elapsed());
        while cut.elapsed() < HOLD {
            assert_eq!(leases(&mesh, &servers), before, "{what}");
            thread::sleep(Duration::from_millis(50));
        }
        late.kill();
        eventually("the leader removes it", SOON, || {
            (!mesh.is_registered(&late.uuid)).then_some(())
        });
        network.heal();
        for server in &servers {
            let doubts = server.lines_with("etcd is in doubt");
            assert!(doubts.is_empty(), "{what}: {:?}", server.lines());
        }
    }
}
