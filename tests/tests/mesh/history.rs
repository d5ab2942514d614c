//! etcd goes back to an earlier state, or is replaced: there is a leader within the TTL, no server
//! is evicted, and all servers rejoin after a reset.

use crate::common::{Mesh, QUICK, SOON, Server};
use palm_tests::{Etcd, Proxy, binary, eventually};
use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// The lease's time in these tests, and 2 s, which the design gives a leader after a restore; and
/// what a busy machine adds.
const LEADER: Duration = Duration::from_secs(3 + 2 + 10);

fn uuids(servers: &[Server]) -> Vec<&str> {
    servers.iter().map(|server| server.uuid.as_str()).collect()
}

/// Returns the output of `palm-cli`, which must succeed.
fn cli(etcd: &Etcd, args: &[&str]) -> String {
    let done = Command::new(binary("palm-cli"))
        .args(["--etcd", &etcd.endpoint(), "--prefix", "/mesh"])
        .args(args)
        .output()
        .expect("palm-cli starts");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(done.status.success(), "{args:?}: {:?} {said}", done.status);
    said
}

/// After etcd's history went back: all servers are registered again, also after a reset,
/// and none has ended.
fn all_come_back(etcd: &Etcd, servers: &[Server], restored: Instant) {
    let again = Mesh::new(etcd, "/mesh", &QUICK);
    again.await_published_within(&uuids(servers), LEADER);
    println!("all are back {:.1?} after the restore", restored.elapsed());
    assert!(restored.elapsed() < LEADER, "{:?}", restored.elapsed());
    for _ in 0..2 {
        let said = cli(etcd, &["reset", "--yes"]);
        assert!(
            said.contains(&format!("{0} of {0} servers came back", servers.len())),
            "{said}"
        );
        again.await_published(&uuids(servers));
    }
    for server in servers {
        assert!(server.is_running(), "{:?}", server.lines());
        let writes = server
            .lines_with("WARNING")
            .iter()
            .filter(|line| line.contains("a write of the leader"))
            .count();
        assert!(
            writes < 5,
            "{:?}",
            server.lines_with("a write of the leader")
        );
    }
}

/// Has records rewritten after a backup, restores it, and checks the mesh.
fn a_backup_is_restored(meanwhile: impl Fn(&Mesh, &Etcd, &[Server]), token: Option<&str>) {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let servers = mesh.start_in_line("printf", 3);
    let backup = etcd.back_up();
    meanwhile(&mesh, &etcd, &servers);
    etcd.restore(&backup, token);
    let restored = Instant::now();
    let alive: Vec<_> = servers
        .into_iter()
        .filter(|server| server.is_running())
        .collect();
    all_come_back(&etcd, &alive, restored);
}

#[test]
fn a_reset_works_after_a_backup_from_before_one() {
    let reset = |mesh: &Mesh, etcd: &Etcd, servers: &[Server]| {
        cli(etcd, &["reset", "--yes"]);
        mesh.await_published(&uuids(servers));
        for i in 0..20 {
            etcd.etcdctl(&["put", "/noise", &i.to_string()]);
        }
    };
    a_backup_is_restored(reset, None);
}

#[test]
fn a_backup_from_before_a_failover_brings_all_back() {
    let kill = |mesh: &Mesh, _: &Etcd, servers: &[Server]| {
        servers[0].kill();
        mesh.await_lead(&servers[1].uuid, SOON);
        mesh.await_published(&uuids(&servers[1..]));
    };
    a_backup_is_restored(kill, None);
}

#[test]
fn a_restore_with_higher_revisions_brings_all_back() {
    // The servers see the restored etcd only once it has more revisions than the old one had.
    let etcd = Etcd::start();
    let between = Proxy::start(etcd.address());
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let servers: Vec<_> = (0..2)
        .map(|_| {
            let server = mesh.start_at("printf", &between.endpoint());
            mesh.await_published(&[&server.uuid]);
            server
        })
        .collect();
    let backup = etcd.back_up();
    cli(&etcd, &["reset", "--yes"]);
    mesh.await_published(&uuids(&servers));
    between.cut();
    etcd.restore(&backup, None);
    for i in 0..100 {
        etcd.etcdctl(&["put", "/noise", &i.to_string()]);
    }
    between.pass();
    all_come_back(&etcd, &servers, Instant::now());
}

#[test]
fn an_etcd_that_lost_its_data_gets_all_servers_back() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let servers = mesh.start_in_line("printf", 3);
    etcd.lose_data();
    all_come_back(&etcd, &servers, Instant::now());
}

#[test]
fn a_backup_as_another_cluster_is_accepted_after_the_ttl() {
    let nothing = |_: &Mesh, _: &Etcd, _: &[Server]| {};
    a_backup_is_restored(nothing, Some("another"));
}

/// A record that was deleted unobserved and without a tombstone proves nothing.
#[test]
fn a_key_that_is_merely_missing_ends_no_server() {
    let etcd = Etcd::start();
    let between = Proxy::start(etcd.address());
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let server = mesh.start_at("printf", &between.endpoint());
    mesh.await_published(&[&server.uuid]);
    between.cut();
    let key = mesh.key(&format!("/servers/{}", server.uuid));
    etcd.etcdctl(&["del", &key]);
    between.pass();
    mesh.await_published(&[&server.uuid]);
    server.wait_for_line(
        |line| line.contains("nothing proves that an administrator deleted it"),
        SOON,
    );
    assert!(server.is_running());
}

/// All under the prefix is deleted by hand, which is no removal of a single server.
#[test]
fn a_mesh_that_is_cleared_by_hand_comes_back() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let servers = mesh.start_in_line("printf", 3);
    etcd.etcdctl(&["del", "--prefix", "/mesh/"]);
    mesh.await_published(&uuids(&servers));
    assert!(servers.iter().all(|server| server.is_running()));
}

#[test]
fn another_cluster_behind_the_address_is_refused_by_name() {
    let (etcd, other) = (Etcd::start(), Etcd::start());
    let there = Mesh::new(&other, "/mesh", &QUICK);
    let stranger = there.start("text");
    there.await_published(&[&stranger.uuid]);
    let between = Proxy::start(etcd.address());
    let mesh = Mesh::new(&etcd, "/mesh", &[]);
    let server = mesh.start_at("printf", &between.endpoint());
    mesh.await_published(&[&server.uuid]);
    let client = futures::executor::block_on(palm_peer::Client::connect(
        mesh.options_at(&between.endpoint()),
    ));
    let client = client.expect("connects");
    between.redirect(other.address());
    let (line, _) = server.wait_for_line(|line| line.contains("is another cluster"), SOON);
    assert!(
        line.contains("WARNING") && line.contains(&between.endpoint()),
        "{line}"
    );
    for _ in 0..20 {
        let reachable: Vec<_> = client
            .reachable()
            .iter()
            .map(|server| server.server.clone())
            .collect();
        assert_eq!(
            reachable,
            ["printf"],
            "nothing that the other cluster says is used"
        );
        assert!(!there.is_registered(&server.uuid));
        thread::sleep(Duration::from_millis(100));
    }
    between.redirect(etcd.address());
    server.wait_for_line(
        |line| line.contains("etcd is back") || line.contains("Configured"),
        SOON,
    );
    mesh.await_published(&[&server.uuid]);
    eventually("one line says it", SOON, || {
        (server.lines_with("is another cluster").len() == 1).then_some(())
    });
}

#[test]
fn an_endpoint_of_another_cluster_is_skipped() {
    let (etcd, second, other) = (Etcd::start(), Etcd::start(), Etcd::start());
    // Two ways to one cluster, and one to another.
    let (here, too) = (Proxy::start(etcd.address()), Proxy::start(etcd.address()));
    drop(second);
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let endpoints = [other.endpoint(), here.endpoint(), too.endpoint()].join(",");
    // Each begins at an endpoint by chance.
    let servers: Vec<_> = (0..4)
        .map(|_| mesh.start_at("printf", &endpoints))
        .collect();
    mesh.await_published(&uuids(&servers));
    assert_eq!(
        other.etcdctl(&["get", "--prefix", "--keys-only", "/mesh/"]),
        ""
    );
}
