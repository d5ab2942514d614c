//! No task ends unseen: each is made to panic in a server of a mesh of three, and the mesh recovers
//! within its bounds.

use crate::common::{Mesh, QUICK, SOON, Server};
use futures::StreamExt as _;
use futures::executor::block_on;
use palm_peer::Client;
use palm_tests::{Etcd, Process, eventually, example, in_repository};
use std::{collections::BTreeSet, fs, path::PathBuf, thread, time::Duration};
use tempfile::TempDir;

/// TTL and 2 s, and what a busy machine may take beyond.
const LEADER_WITHIN: Duration = Duration::from_secs(3 + 2 + 3);

/// In a server that leads.
const WHILE_LEADING: [&str; 11] = [
    "leader",
    "lease-keeper",
    "own-record",
    "history",
    "candidate-watch",
    "agent",
    "watchdog",
    "listener",
    "timer",
    "log",
    "etcd-thread",
];
/// In a server that follows.
const WHILE_FOLLOWING: [&str; 7] = [
    "leader-watch",
    "candidate-watch",
    "lease-keeper",
    "own-record",
    "agent",
    "watchdog",
    "listener",
];
/// As soon as they start.
const AT_THE_START: [&str; 8] = [
    "candidacy",
    "etcd-watch",
    "etcd-watch-stream",
    "etcd-request",
    "leader",
    "link-reader",
    "link-writer",
    "link-watch",
];
/// In a server whose record is deleted.
const AFTER_A_RESET: [&str; 2] = ["investigation", "registration"];
const OF_CONNECTIONS: [&str; 2] = ["connection", "connection-outward"];
/// In a server that passes messages on.
const WHILE_RELAYING: [&str; 3] = ["directory", "old-link", "posted-watch"];
/// Without them a server can only end.
const FATAL: [&str; 2] = ["serving", "peer"];
/// When a server is asked to leave, which it does all the same.
const AT_THE_END: [&str; 2] = ["signals", "last-resort"];
/// Those of a test of their own; that of `link-reopen` is `network::stages`, that of
/// `readiness` is `readiness`.
const OTHERS: [&str; 10] = [
    "await-response",
    "certificate-expiry",
    "drain",
    "function-thread",
    "leader-removal",
    "link-reopen",
    "metrics-listener",
    "readiness",
    "resignation",
    "resolver",
];
/// Starts only when a lock inside of the zeromq crate happens to be held. Its panic is caught as
/// any task's, and counts as the end of the send that it finishes, as its deadline does.
const BY_CHANCE: [&str; 1] = ["slow-send"];

#[test]
fn each_task_of_the_library_panics_in_a_test_here() {
    let source = fs::read_to_string(in_repository("palm-peer/src/io/threads/name.rs"))
        .expect("the list of names");
    let named = |line: &'_ str| {
        line.strip_suffix("\",")
            .and_then(|line| Some(line.split_once(" = \"")?.1.to_owned()))
    };
    let named: BTreeSet<String> = source.lines().filter_map(named).collect();
    let tested = [
        &WHILE_LEADING[..],
        &WHILE_FOLLOWING,
        &AT_THE_START,
        &AFTER_A_RESET,
        &OF_CONNECTIONS,
        &WHILE_RELAYING,
        &FATAL,
        &AT_THE_END,
        &OTHERS,
        &BY_CHANCE,
    ];
    let tested = tested.concat().into_iter().map(str::to_owned).collect();
    assert_eq!(named, tested);
}

/// Whether the line says that this task, or thread, panicked as it was told to.
fn says_panicked(line: &str, task: &str) -> bool {
    let words = format!("panicked: PALM_TEST_PANIC names {task}");
    line.starts_with("ERROR:palm_peer::io::tasks:")
        && (line.contains(&format!("task {task} {words}"))
            || line.contains(&format!("thread {task} failed: it {words}")))
}

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
        Self::of(etcd, prefix, task, times, |number| number == place)
    }

    /// The `rigged` ones, by their numbers in line, panic this many times.
    fn of(
        etcd: &'a Etcd,
        prefix: &str,
        task: &str,
        times: u32,
        rigged: impl Fn(usize) -> bool,
    ) -> Self {
        let mesh = Mesh::new(etcd, prefix, &QUICK);
        let folder = TempDir::new().expect("a folder");
        let trigger = folder.path().join("now");
        let start = |number| {
            let server = Process::builder(example("printf"))
                .args(["run", "--etcd", &etcd.endpoint()])
                .args(QUICK);
            let rig = format!("{task}:{times}:{}", trigger.display());
            let server = if rigged(number) {
                server.env("PALM_TEST_PANIC", rig)
            } else {
                server
            };
            let server = mesh.start_program(server);
            mesh.await_published(&[&server.uuid]);
            mesh.await_in_line(&server.uuid);
            server
        };
        let servers = (0..3).map(start).collect();
        Self {
            mesh,
            servers,
            trigger,
            _folder: folder,
        }
    }

    /// Has the task panic.
    fn pull(&self) {
        fs::write(&self.trigger, "").expect("written");
    }

    /// All that a mesh has to do is done: a leader, calls, a newcomer, a server that is killed.
    fn works(&self, alive: &[&Server]) {
        let leads = || {
            self.mesh
                .leading()
                .filter(|(_, uuid)| alive.iter().any(|server| server.uuid == *uuid))
        };
        eventually("a leader", LEADER_WITHIN, leads);
        let client = block_on(Client::connect(self.mesh.options())).expect("connects");
        for server in alive {
            let target = format!("{}.printf", server.uuid);
            let call = || block_on(client.call(&target, "hello").timeout(SOON).into_future()).ok();
            assert_eq!(eventually("an answer", SOON, call), "hello");
        }
        let newcomer = self.mesh.start("text");
        let all: Vec<_> = alive
            .iter()
            .map(|server| server.uuid.as_str())
            .chain([newcomer.uuid.as_str()])
            .collect();
        self.mesh.await_published(&all);
        newcomer.kill();
        eventually("a killed server is removed", SOON, || {
            (!self.mesh.is_registered(&newcomer.uuid)).then_some(())
        });
    }
}

/// One panic of this task in the `place`th server.
fn once(etcd: &Etcd, task: &str, place: usize) {
    let world = World::new(etcd, &format!("/{task}-{place}"), task, 1, place);
    let failing = &world.servers[place];
    let led = place == 0;
    world.pull();
    failing.wait_for_line(|line| says_panicked(line, task), SOON);
    if led {
        let other = || {
            world
                .mesh
                .leading()
                .filter(|(_, uuid)| *uuid != failing.uuid)
        };
        eventually(
            &format!("another leads after {task} panicked"),
            LEADER_WITHIN,
            other,
        );
    }
    world.works(&world.servers.iter().collect::<Vec<_>>());
    for server in &world.servers {
        server.terminate();
        assert_eq!(
            server.wait(SOON).code(),
            Some(0),
            "{task}: an orderly leave"
        );
    }
}

#[test]
fn a_leader_with_a_panicking_task_steps_down_and_returns() {
    let etcd = Etcd::start();
    for task in WHILE_LEADING {
        once(&etcd, task, 0);
    }
}

#[test]
fn a_follower_with_a_panicking_task_continues() {
    let etcd = Etcd::start();
    for task in WHILE_FOLLOWING {
        once(&etcd, task, 1);
    }
}

#[test]
fn tasks_that_panic_at_start_are_restarted() {
    let etcd = Etcd::start();
    for task in AT_THE_START {
        let mesh = Mesh::new(&etcd, &format!("/{task}"), &QUICK);
        let start = || {
            let program = Process::builder(example("printf"))
                .args(["run", "--etcd", &etcd.endpoint()])
                .args(QUICK);
            mesh.start_program(program.env("PALM_TEST_PANIC", task))
        };
        let servers = [start(), start()];
        mesh.await_published(&servers.each_ref().map(|server| server.uuid.as_str()));
        servers[0].wait_for_line(|line| says_panicked(line, task), SOON);
    }
}

#[test]
fn a_leader_whose_resolver_panics_finds_servers_by_name() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let program = Process::builder(example("printf"))
        .args(["run", "--etcd", &etcd.endpoint()])
        .args(QUICK);
    let program = program.args(["--ip", "localhost", "--bind", "127.0.0.1"]);
    let server = mesh.start_program(program.env("PALM_TEST_PANIC", "resolver"));
    server.wait_for_line(|line| says_panicked(line, "resolver"), SOON);
    mesh.await_published(&[&server.uuid]);
}

#[test]
fn functions_wait_on_threads_that_panicked() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let program = Process::builder(example("sleepy"))
        .args(["run", "--etcd", &etcd.endpoint()])
        .args(QUICK);
    let task = "function-thread";
    let server = mesh.start_program(program.env("PALM_TEST_PANIC", format!("{task}:2")));
    mesh.await_published(&[&server.uuid]);
    let client = block_on(Client::connect(mesh.options())).expect("connects");
    let call = client.call(format!("{}.wait", server.uuid), "0.1");
    let answer = block_on(call.timeout(SOON).into_future());
    assert_eq!(answer.expect("an answer"), "waited");
    server.wait_for_line(|line| says_panicked(line, task), SOON);
}

#[test]
fn a_record_lost_while_unwatched_is_put_again() {
    let etcd = Etcd::start();
    let world = World::new(&etcd, "/mesh", "own-record", 1, 1);
    let uuid = &world.servers[1].uuid;
    world.pull();
    world.servers[1].wait_for_line(|line| line.contains("task own-record panicked"), SOON);
    // It rests for half a second at most before it is restarted.
    world.mesh.reset();
    let all: Vec<_> = world
        .servers
        .iter()
        .map(|server| server.uuid.as_str())
        .collect();
    world.mesh.await_published(&all);
    assert!(world.mesh.is_registered(uuid));
}

#[test]
fn a_panic_in_a_connection_ends_only_that_one() {
    let etcd = Etcd::start();
    for task in OF_CONNECTIONS {
        let world = World::new(&etcd, &format!("/{task}"), task, 1, 0);
        world.pull();
        world.servers[0].wait_for_line(|line| says_panicked(line, task), SOON);
        world.works(&world.servers.iter().collect::<Vec<_>>());
        let client = block_on(Client::connect(world.mesh.options())).expect("connects");
        let target = format!("{}._ping", world.servers[0].uuid);
        let ping =
            block_on(client.call(&target, "").timeout(SOON).into_future()).expect("an answer");
        let ping: serde_json::Value = serde_json::from_slice(&ping).expect("JSON");
        assert_eq!(ping["panicked"], 1, "{ping}");
    }
}

#[test]
fn a_panic_while_registering_does_not_prevent_registration() {
    let etcd = Etcd::start();
    for task in AFTER_A_RESET {
        let world = World::new(&etcd, &format!("/{task}"), task, 1, 1);
        world.pull();
        world.mesh.reset();
        world.servers[1].wait_for_line(|line| says_panicked(line, task), SOON);
        let all: Vec<_> = world
            .servers
            .iter()
            .map(|server| server.uuid.as_str())
            .collect();
        world.mesh.await_published(&all);
        world.works(&world.servers.iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_panic_while_waiting_for_the_loop_is_recovered() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let leader = mesh.start("printf");
    mesh.await_published(&[&leader.uuid]);
    let server = Process::builder(example("sleepy"))
        .args(["run", "--etcd", &etcd.endpoint()])
        .args(QUICK);
    let server = mesh.start_program(server.env("PALM_TEST_PANIC", "await-response"));
    mesh.await_published(&[&leader.uuid, &server.uuid]);
    let client = block_on(Client::connect(mesh.options())).expect("connects");
    let call = client
        .call(format!("{}.block", server.uuid), "9")
        .timeout(Duration::from_secs(60));
    thread::scope(|scope| {
        let calling = scope.spawn(|| block_on(call.into_future()));
        server.wait_for_line(|line| says_panicked(line, "await-response"), SOON);
        assert_eq!(
            calling
                .join()
                .expect("no panic")
                .expect("an answer in the end"),
            "awake"
        );
    });
    mesh.await_published(&[&leader.uuid, &server.uuid]);
}

#[test]
fn a_leader_resigns_even_if_its_resignation_panics() {
    let etcd = Etcd::start();
    let world = World::new(&etcd, "/mesh", "resignation:1,history", 1, 0);
    let failing = &world.servers[0];
    world.pull();
    failing.wait_for_line(|line| says_panicked(line, "resignation"), SOON);
    let other = || {
        world
            .mesh
            .leading()
            .filter(|(_, uuid)| *uuid != failing.uuid)
    };
    eventually("another leads", LEADER_WITHIN, other);
    world.works(&world.servers.iter().collect::<Vec<_>>());
}

#[test]
fn a_killed_leader_is_removed_even_if_removing_it_panics() {
    let etcd = Etcd::start();
    // Both watch the leader's process, and one of them is the first to see it go.
    let world = World::of(&etcd, "/mesh", "leader-removal", 1, |number| number > 0);
    world.pull();
    world.servers[0].kill();
    let panicked = |server: &Server| {
        server
            .lines()
            .iter()
            .any(|line| says_panicked(line, "leader-removal"))
    };
    eventually("removing it panics", SOON, || {
        world.servers[1..].iter().any(panicked).then_some(())
    });
    world.works(&world.servers[1..].iter().collect::<Vec<_>>());
}

#[test]
fn forwarding_continues_when_one_of_its_tasks_panics() {
    let etcd = Etcd::start();
    for task in WHILE_RELAYING {
        let world = World::new(&etcd, &format!("/{task}"), task, 1, 0);
        let failing = &world.servers[0];
        let next = world.mesh.start("text");
        let all: Vec<_> = world
            .servers
            .iter()
            .map(|server| server.uuid.as_str())
            .chain([next.uuid.as_str()])
            .collect();
        world.mesh.await_published(&all);
        let client = block_on(Client::connect(world.mesh.options())).expect("connects");
        let pass_on = |next: &Server| {
            let stages = [
                format!("{}.printf", failing.uuid),
                format!("{}.shout", next.uuid),
            ];
            // It sees a newcomer a moment after the leader has published it.
            let job = || client.job(stages.clone()).run_iter(["hello"]).ok();
            let job = eventually("the client sees both", SOON, job);
            let results = block_on(job.collect::<Vec<_>>());
            assert!(results.len() == 1 && results[0].1.is_ok(), "{results:?}");
        };
        pass_on(&next);
        world.pull();
        next.terminate();
        failing.wait_for_line(|line| says_panicked(line, task), SOON);
        let next = world.mesh.start("text");
        pass_on(&next);
        world.works(&world.servers.iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_server_leaves_gracefully_though_a_thread_panics() {
    let etcd = Etcd::start();
    for task in AT_THE_END {
        let world = World::new(&etcd, &format!("/{task}"), task, 1, 0);
        let failing = &world.servers[0];
        world.pull();
        // A process that ends soon might not log the panic of a thread that is not joined.
        etcd.freeze();
        failing.terminate();
        failing.wait_for_line(|line| says_panicked(line, task), SOON);
        etcd.thaw();
        assert_eq!(
            failing.wait(SOON).code(),
            Some(0),
            "{task}: {:?}",
            failing.lines()
        );
        assert!(!world.mesh.is_registered(&failing.uuid), "it left");
        world.works(&world.servers[1..].iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_panic_during_the_drain_ends_with_status_1() {
    let etcd = Etcd::start();
    let world = World::new(&etcd, "/mesh", "drain", 1, 0);
    let failing = &world.servers[0];
    world.pull();
    failing.terminate();
    assert_eq!(failing.wait(SOON).code(), Some(1));
    assert_eq!(
        failing
            .lines_with("leaving panicked: PALM_TEST_PANIC names drain")
            .len(),
        1,
        "{:?}",
        failing.lines()
    );
    eventually("it left", SOON, || {
        (!world.mesh.is_registered(&failing.uuid)).then_some(())
    });
    world.works(&world.servers[1..].iter().collect::<Vec<_>>());
}

#[test]
fn repeated_panics_end_the_server_with_status_1() {
    let etcd = Etcd::start();
    // While the timer panics, no deadline passes; while etcd's thread does, nothing takes the
    // server out of the mesh. That ends all the same.
    for task in [
        "lease-keeper",
        "agent",
        "listener",
        "timer",
        "etcd-thread",
        "log",
    ] {
        let world = World::new(&etcd, &format!("/{task}"), task, u32::MAX, 0);
        world.pull();
        let failing = &world.servers[0];
        assert_eq!(
            failing.wait(Duration::from_secs(60)).code(),
            Some(1),
            "{task}"
        );
        let lines = failing.lines_with("cannot continue and must be restarted: ");
        let named = lines
            .iter()
            .any(|line| line.starts_with("ERROR:") && line.contains(task));
        assert!(named || task == "log", "{:?}", failing.lines());
        eventually("it left", SOON, || {
            (!world.mesh.is_registered(&failing.uuid)).then_some(())
        });
        world.works(&world.servers[1..].iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_lone_server_that_cannot_lead_ends_with_status_1() {
    let etcd = Etcd::start();
    let mesh = Mesh::new(&etcd, "/mesh", &QUICK);
    let server = Process::builder(example("printf"))
        .args(["run", "--etcd", &etcd.endpoint()])
        .args(QUICK);
    let server = mesh.start_program(server.env("PALM_TEST_PANIC", format!("leader:{}", u32::MAX)));
    assert_eq!(server.wait(Duration::from_secs(60)).code(), Some(1));
    // It gives others the chance to lead, each time.
    assert!(
        server.lines_with("no longer leading the mesh").len() >= 2,
        "{:?}",
        server.lines()
    );
    assert!(!mesh.is_registered(&server.uuid), "it left");
}

#[test]
fn a_server_whose_loop_or_agent_panics_ends_with_status_1() {
    let etcd = Etcd::start();
    for (task, reason) in FATAL
        .into_iter()
        .zip(["the serving loop panicked", "its agent ended"])
    {
        let world = World::new(&etcd, &format!("/{task}"), task, 1, 0);
        world.pull();
        let failing = &world.servers[0];
        assert_eq!(failing.wait(SOON).code(), Some(1));
        assert_eq!(
            failing
                .lines_with(&format!("must be restarted: {reason}"))
                .len(),
            1,
            "{:?}",
            failing.lines()
        );
        // Without an agent its lease has to expire.
        let left = || (!world.mesh.is_registered(&failing.uuid)).then_some(());
        eventually("it left", SOON, left);
        world.works(&world.servers[1..].iter().collect::<Vec<_>>());
    }
}
