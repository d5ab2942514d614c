//! No task ends unseen: each is made to panic in a server of a mesh of three, and the mesh recovers within its bounds.

use crate::common::{Mesh, QUICK, SOON, Server};
use futures::executor::block_on;
use palm_peer::Client;
use palm_tests::{Etcd, Process, eventually, example};
use std::{fs, path::PathBuf, time::Duration};
use tempfile::TempDir;

/// TTL and 2 s, and what a busy machine may take beyond.
const LEADER_WITHIN: Duration = Duration::from_secs(3 + 2 + 3);

/// Three servers, of which one panics in one of its tasks once the file is there.
struct World<'a> {
    mesh: Mesh<'a>,
    servers: Vec<Server>,
    trigger: PathBuf,
    _folder: TempDir,
}

impl<'a> World<'a> {
    /// The `place`th server, in line for the lead, is the one that panics so often.
    fn new(etcd: &'a Etcd, prefix: &str, task: &str, times: u32, place: usize) -> Self {
        let mesh = Mesh::new(etcd, prefix, &QUICK);
        let folder = TempDir::new().expect("a folder");
        let trigger = folder.path().join("now");
        let start = |number| {
            let server = Process::builder(example("printf")).args(["run", "--etcd", &etcd.endpoint()]).args(QUICK);
            let rig = format!("{task}:{times}:{}", trigger.display());
            let server = if number == place { server.env("PALM_TEST_PANIC", rig) } else { server };
            let server = mesh.start_program(server);
            mesh.await_published(&[&server.uuid]);
            server
        };
        let servers = (0..3).map(start).collect();
        Self { mesh, servers, trigger, _folder: folder }
    }

    fn pull(&self) {
        fs::write(&self.trigger, "").expect("written");
    }

    /// All that a mesh has to do is done: a leader, calls, a newcomer, a server that is killed.
    fn works(&self, alive: &[&Server]) {
        let leads = || self.mesh.leading().filter(|(_, uuid)| alive.iter().any(|server| server.uuid == *uuid));
        eventually("a leader", LEADER_WITHIN, leads);
        let client = block_on(Client::connect(self.mesh.options())).expect("connects");
        for server in alive {
            let target = format!("{}.printf", server.uuid);
            let call = || block_on(client.call(&target, "hello").timeout(SOON).into_future()).ok();
            assert_eq!(eventually("an answer", SOON, call), "hello");
        }
        let newcomer = self.mesh.start("text");
        let all: Vec<_> = alive.iter().map(|server| server.uuid.as_str()).chain([newcomer.uuid.as_str()]).collect();
        self.mesh.await_published(&all);
        newcomer.kill();
        eventually("a killed server is removed", SOON, || (!self.mesh.is_registered(&newcomer.uuid)).then_some(()));
    }
}

/// One panic of this task in the `place`th server.
fn once(etcd: &Etcd, task: &str, place: usize) {
    let world = World::new(etcd, &format!("/{task}-{place}"), task, 1, place);
    let failing = &world.servers[place];
    let led = place == 0;
    world.pull();
    let named = format!("task {task} panicked: PALM_TEST_PANIC names {task}");
    failing.wait_for_line(|line| line.starts_with("ERROR:") && line.contains(&named), SOON);
    if led {
        let other = || world.mesh.leading().filter(|(_, uuid)| *uuid != failing.uuid);
        eventually(&format!("another leads after {task} panicked"), LEADER_WITHIN, other);
    }
    world.works(&world.servers.iter().collect::<Vec<_>>());
    for server in &world.servers {
        server.terminate();
        assert_eq!(server.wait(SOON).code(), Some(0), "{task}: an orderly leave");
    }
}

#[test]
fn a_leader_in_which_a_task_panics_steps_down_and_comes_back() {
    let etcd = Etcd::start();
    for task in ["leader", "lease-keeper", "own-record", "history", "candidate-watch", "agent", "watchdog", "listener"]
    {
        once(&etcd, task, 0);
    }
}

#[test]
fn a_follower_in_which_a_task_panics_goes_on() {
    let etcd = Etcd::start();
    for task in ["leader-watch", "candidate-watch", "lease-keeper", "own-record", "agent", "watchdog", "listener"] {
        once(&etcd, task, 1);
    }
}

#[test]
fn tasks_that_panic_as_they_start_are_started_anew() {
    let etcd = Etcd::start();
    for task in ["candidacy", "etcd-watch", "etcd-request", "leader", "link-reader", "link-writer", "link-watch"] {
        let mesh = Mesh::new(&etcd, &format!("/{task}"), &QUICK);
        let start = || {
            let program = Process::builder(example("printf")).args(["run", "--etcd", &etcd.endpoint()]).args(QUICK);
            mesh.start_program(program.env("PALM_TEST_PANIC", task))
        };
        let servers = [start(), start()];
        mesh.await_published(&servers.each_ref().map(|server| server.uuid.as_str()));
        let named = format!("task {task} panicked: PALM_TEST_PANIC names {task}");
        servers[0].wait_for_line(|line| line.starts_with("ERROR:") && line.contains(&named), SOON);
    }
}

#[test]
fn a_record_that_goes_while_nobody_watches_it_is_put_again() {
    let etcd = Etcd::start();
    let world = World::new(&etcd, "/mesh", "own-record", 1, 1);
    let uuid = &world.servers[1].uuid;
    world.pull();
    world.servers[1].wait_for_line(|line| line.contains("task own-record panicked"), SOON);
    // It rests for half a second at most before it is started anew.
    world.mesh.reset();
    let all: Vec<_> = world.servers.iter().map(|server| server.uuid.as_str()).collect();
    world.mesh.await_published(&all);
    assert!(world.mesh.is_registered(uuid));
}

#[test]
fn a_connection_in_which_we_panic_ends_alone_and_is_counted() {
    let etcd = Etcd::start();
    for task in ["connection", "connection-outward"] {
        let world = World::new(&etcd, &format!("/{task}"), task, 1, 0);
        world.pull();
        let named = format!("task {task} panicked: ");
        world.servers[0].wait_for_line(|line| line.starts_with("ERROR:") && line.contains(&named), SOON);
        world.works(&world.servers.iter().collect::<Vec<_>>());
        let client = block_on(Client::connect(world.mesh.options())).expect("connects");
        let target = format!("{}._ping", world.servers[0].uuid);
        let ping = block_on(client.call(&target, "").timeout(SOON).into_future()).expect("an answer");
        let ping: serde_json::Value = serde_json::from_slice(&ping).expect("JSON");
        assert_eq!(ping["panicked"], 1, "{ping}");
    }
}

#[test]
fn the_thread_of_the_timers_goes_on_after_a_panic() {
    let etcd = Etcd::start();
    let world = World::new(&etcd, "/mesh", "timer", 1, 0);
    world.pull();
    world.servers[0].wait_for_line(|line| line.starts_with("ERROR:") && line.contains("thread timer panicked"), SOON);
    world.works(&world.servers.iter().collect::<Vec<_>>());
}

#[test]
fn a_server_in_which_a_task_panics_again_and_again_ends_with_status_1_and_the_mesh_goes_on() {
    let etcd = Etcd::start();
    for task in ["lease-keeper", "agent", "listener", "timer"] {
        let world = World::new(&etcd, &format!("/{task}"), task, u32::MAX, 0);
        world.pull();
        let failing = &world.servers[0];
        assert_eq!(failing.wait(Duration::from_secs(60)).code(), Some(1), "{task}");
        let lines = failing.lines_with("cannot go on and must be started anew: task ");
        assert!(lines.iter().any(|line| line.starts_with("ERROR:") && line.contains(task)), "{:?}", failing.lines());
        eventually("it left", SOON, || (!world.mesh.is_registered(&failing.uuid)).then_some(()));
        world.works(&world.servers[1..].iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_lone_server_that_cannot_lead_ends_with_status_1() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let server = Process::builder(example("printf")).args(["run", "--etcd", &etcd.endpoint()]).args(QUICK);
    let server = mesh.start_program(server.env("PALM_TEST_PANIC", format!("leader:{}", u32::MAX)));
    assert_eq!(server.wait(Duration::from_secs(60)).code(), Some(1));
    // It gives others the chance to lead, each time.
    assert!(server.lines_with("no longer leading the mesh").len() >= 2, "{:?}", server.lines());
    assert!(!mesh.is_registered(&server.uuid), "it left");
}

#[test]
fn a_serving_loop_that_panics_ends_the_server_in_an_orderly_way() {
    let etcd = Etcd::start();
    let world = World::new(&etcd, "/mesh", "serving", 1, 0);
    world.pull();
    let failing = &world.servers[0];
    assert_eq!(failing.wait(SOON).code(), Some(1));
    assert!(!world.mesh.is_registered(&failing.uuid), "it left");
    assert_eq!(failing.lines_with("the serving loop panicked: PALM_TEST_PANIC names serving").len(), 1);
    world.works(&world.servers[1..].iter().collect::<Vec<_>>());
}
