//! How a server in Python stays in its mesh, and how it gets out of it.

use super::start;
use crate::common::{Mesh, QUICK, Server, calls::Calls};
use palm_tests::{Etcd, Process, binary, eventually, python};
use std::{path::Path, time::Duration};

const SOON: Duration = Duration::from_secs(20);
/// Three missed probes, and what comes after.
const PATIENCE: Duration = Duration::from_secs(60);

struct World<'a> {
    mesh: Mesh<'a>,
    leader: Server,
    server: Server,
}

impl<'a> World<'a> {
    fn start(etcd: &'a Etcd, python: &Path) -> Self {
        let mesh = Mesh::new(etcd, "/py", &QUICK);
        let leader = mesh.start("printf");
        mesh.await_published(&[&leader.uuid]);
        let server = start(&mesh, python, &etcd.endpoint());
        Self {
            mesh,
            leader,
            server,
        }
    }

    /// The lease of its record.
    fn lease(&self) -> u64 {
        self.mesh
            .state()
            .get(&format!("/servers/{}", self.server.uuid))
            .map_or(0, |record| record.lease)
    }

    /// Waits until it is back under another lease, with the uuid that it had.
    fn comes_back(&self, lease: u64) {
        eventually("it is back under a new lease", PATIENCE, || {
            (![0, lease].contains(&self.lease())).then_some(())
        });
        self.mesh
            .await_published_within(&[&self.server.uuid], PATIENCE);
    }
}

#[test]
fn a_python_server_rejoins_when_its_lease_is_lost() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let world = World::start(&etcd, &python);
    for _ in 0..2 {
        let lease = world.lease();
        etcd.etcdctl(&["lease", "revoke", &format!("{lease:x}")]);
        world.comes_back(lease);
    }
    // Longer than its lease lives.
    let lease = world.lease();
    world.server.freeze();
    eventually("its record is gone", PATIENCE, || {
        (!world.mesh.is_registered(&world.server.uuid)).then_some(())
    });
    world.server.thaw();
    world.comes_back(lease);
}

#[test]
fn a_python_server_survives_an_etcd_outage() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let world = World::start(&etcd, &python);
    let calls = Calls::start(world.mesh.options());
    for _ in 0..2 {
        let mark = world.server.mark();
        etcd.stop();
        world
            .server
            .wait_for_line_after(mark, |line| line.contains("etcd is in doubt"), SOON);
        etcd.launch();
        etcd.await_health();
        world
            .server
            .wait_for_line_after(mark, |line| line.contains("etcd is back"), SOON);
        world
            .mesh
            .await_published_within(&[&world.server.uuid, &world.leader.uuid], PATIENCE);
    }
    calls.all_went_well(10);
    assert!(world.server.is_running());
}

#[test]
fn a_python_server_rejoins_at_once_after_a_reset() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let world = World::start(&etcd, &python);
    let mark = world.server.mark();
    world.mesh.reset();
    world
        .server
        .wait_for_line_after(mark, |line| line.contains("the mesh was reset"), SOON);
    world
        .mesh
        .await_published_within(&[&world.server.uuid, &world.leader.uuid], PATIENCE);
}

#[test]
fn a_removed_python_server_stays_out() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    for by_hand in [false, true] {
        let world = World::start(&etcd, &python);
        if by_hand {
            etcd.etcdctl(&[
                "del",
                &world.mesh.key(&format!("/servers/{}", world.server.uuid)),
            ]);
        } else {
            world.mesh.remove(&world.server.uuid);
        }
        assert_eq!(
            world.server.wait(SOON).code(),
            Some(77),
            "{:?}",
            world.server.lines()
        );
        assert!(!world.mesh.is_registered(&world.server.uuid));
    }
}

#[test]
fn a_mute_python_server_is_removed_and_rejoins() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    // A lease that outlives three missed probes.
    let mesh = Mesh::new(
        &etcd,
        "/py",
        &[
            "--ttl",
            "3",
            "--probe-period",
            "1",
            "--probe-timeout",
            "0.3",
        ],
    );
    let leader = mesh.start("printf");
    mesh.await_published(&[&leader.uuid]);
    let program = super::program(&python, "examples/python/server.py", &etcd.endpoint())
        .args(["--ttl", "60"]);
    let server = mesh.start_program(program);
    mesh.await_published(&[&server.uuid]);
    server.freeze();
    eventually("the registry removes it", PATIENCE, || {
        (!mesh.is_registered(&server.uuid)).then_some(())
    });
    let deleted = format!("Deleted server {} because it does not answer", server.uuid);
    leader.wait_for_line(|line| line.contains(&deleted), SOON);
    server.thaw();
    server.wait_for_line(|line| line.contains("it does not answer"), SOON);
    mesh.await_published_within(&[&server.uuid], PATIENCE);
}

#[test]
fn a_python_server_rejoins_when_its_key_is_missing() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/py", &QUICK);
    let leader = mesh.start("printf");
    mesh.await_published(&[&leader.uuid]);
    // Its lease outlives all of this.
    let program = super::program(&python, "examples/python/server.py", &etcd.endpoint())
        .args(["--ttl", "120"]);
    let server = mesh.start_program(program);
    mesh.await_published(&[&server.uuid]);

    // The whole mesh is cleared while it watches.
    let mark = server.mark();
    etcd.etcdctl(&["del", "--prefix", "/py/"]);
    server.wait_for_line_after(mark, |line| line.contains("rejoined as"), SOON);
    mesh.await_published_within(&[&server.uuid, &leader.uuid], PATIENCE);

    // The key goes while no watch is open.
    let mark = server.mark();
    server.freeze();
    etcd.stop();
    etcd.launch();
    etcd.await_health();
    etcd.etcdctl(&["del", &format!("/py/servers/{}", server.uuid)]);
    server.thaw();
    server.wait_for_line_after(mark, |line| line.contains("rejoined as"), PATIENCE);
    mesh.await_published_within(&[&server.uuid, &leader.uuid], PATIENCE);
    assert!(server.is_running(), "{:?}", server.lines());
}

#[test]
fn a_python_server_rejoins_after_a_restore_of_etcd() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    let world = World::start(&etcd, &python);
    let of_before = etcd.back_up();
    for i in 0..20 {
        etcd.etcdctl(&["put", "/noise", &i.to_string()]);
    }
    // Both are registered at a revision that the backup has not reached.
    let mark = world.server.mark();
    world.mesh.reset();
    world
        .server
        .wait_for_line_after(mark, |line| line.contains("rejoined as"), PATIENCE);
    world
        .mesh
        .await_published_within(&[&world.server.uuid, &world.leader.uuid], PATIENCE);
    let restored: [&dyn Fn(); 3] = [
        &|| etcd.restore(&of_before, None),
        &|| etcd.restore(&of_before, Some("another")),
        &|| etcd.lose_data(),
    ];
    for restore in restored {
        let mark = world.server.mark();
        restore();
        world
            .server
            .wait_for_line_after(mark, |line| line.contains("rejoined as"), PATIENCE);
        let again = Mesh::new(&etcd, "/py", &QUICK);
        again.await_published_within(&[&world.server.uuid, &world.leader.uuid], PATIENCE);
        assert!(world.server.is_running(), "{:?}", world.server.lines());
    }
    let endpoint = etcd.endpoint();
    let rm = [
        "--etcd",
        &endpoint,
        "--prefix",
        "/py",
        "rm",
        &world.server.uuid,
    ];
    let cli = Process::start(binary("palm-cli"), rm);
    assert!(cli.wait(SOON).success(), "{:?}", cli.lines());
    assert_eq!(
        world.server.wait(SOON).code(),
        Some(77),
        "{:?}",
        world.server.lines()
    );
}

#[test]
fn every_signal_shuts_a_python_server_down_gracefully() {
    let Some(python) = python() else { return };
    let etcd = Etcd::start();
    for signal in [Process::terminate, Process::interrupt, Process::hang_up] {
        let world = World::start(&etcd, &python);
        signal(&world.server);
        assert_eq!(
            world.server.wait(SOON).code(),
            Some(0),
            "{:?}",
            world.server.lines()
        );
        assert_eq!(
            world.server.lines_with("left the mesh").len(),
            1,
            "{:?}",
            world.server.lines()
        );
        assert_eq!(world.lease(), 0, "its record is gone");
    }
}
