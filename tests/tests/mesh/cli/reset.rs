//! `palm-cli reset`.

use super::world::World;
use std::{
    thread,
    time::{Duration, Instant},
};

/// What servers that are alive may take to come back, and what a busy machine adds.
const BACK_WITHIN: Duration = Duration::from_secs(4);

#[test]
fn after_a_reset_all_servers_come_back_by_themselves() {
    let world = World::new();
    let mut servers = [world.server(), world.server(), world.server()];
    servers.sort_by(|a, b| a.uuid.cmp(&b.uuid));
    let keys = || {
        servers
            .iter()
            .map(|server| format!("/servers/{}", server.uuid))
            .collect::<Vec<_>>()
    };
    world.put("/servers/junk", "junk");
    world.put("/departed/somebody", "{}");
    let began = Instant::now();
    let said = world.cli(&["reset", "--yes"]).done();
    assert!(began.elapsed() < BACK_WITHIN, "{:?}", began.elapsed());
    assert!(
        said.starts_with(
            "Cleared the mesh of 3 servers and 1 broken record\n3 of 3 servers came back within "
        ),
        "{said}"
    );
    assert_eq!(
        world.keys("/servers/"),
        keys(),
        "the same uuids, and no junk"
    );
    assert_eq!(world.keys("/departed/"), [""; 0]);
    assert!(world.stored("/reset").starts_with(r#"{"when":"20"#));
    for server in &servers {
        world.await_configured("", &server.uuid);
        assert!(server.process.is_running());
    }
    let status = world.cli(&["status"]).done();
    assert!(
        status.contains("3 servers of 1 name: 3 configured, 0 waiting; "),
        "{status}"
    );
    assert!(status.ends_with(" leads\n"), "{status}");
}

#[test]
fn a_reset_names_the_servers_that_did_not_return() {
    let world = World::new();
    let (alive, frozen) = (world.server(), world.server());
    frozen.process.freeze();
    let said = world.cli(&["reset", "--yes"]).done();
    let back = said.lines().nth(1).unwrap_or_default();
    assert!(
        back.starts_with("1 of 2 servers came back within "),
        "{said}"
    );
    assert!(
        back.ends_with(" s, and none within the 5.0 s after that"),
        "{said}"
    );
    assert!(
        said.lines()
            .nth(2)
            .is_some_and(|line| line.starts_with("  missing: ")),
        "{said}"
    );
    assert_eq!(said.lines().count(), 3, "{said}");
    assert!(
        said.contains(&frozen.uuid) && !said.contains(&alive.uuid),
        "{said}"
    );
    frozen.process.thaw();
    world.await_configured("", &frozen.uuid);
}

#[test]
fn a_reset_that_does_not_wait_says_what_it_cleared() {
    let world = World::new();
    assert_eq!(
        world.cli(&["reset", "--yes"]).done(),
        "Cleared the mesh of 0 servers\n"
    );
    let server = world.server();
    assert_eq!(
        world.cli(&["reset", "--yes", "--no-wait"]).done(),
        "Cleared the mesh of 1 server\n"
    );
    world.await_configured("", &server.uuid);
}

#[test]
fn a_reset_clears_only_its_own_prefix() {
    let world = World::new();
    let (here, there) = (world.server(), world.server_in("/staging"));
    let before = world
        .etcd
        .etcdctl(&["get", "--prefix", "/servers/", "-w", "json"]);
    let said = world
        .cli(&["--prefix", "/staging", "reset", "--yes"])
        .done();
    assert!(said.contains("1 of 1 server came back"), "{said}");
    world.await_configured("/staging", &there.uuid);
    let modified = |json: &str| {
        let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
        json["kvs"][0]["mod_revision"].clone()
    };
    assert_eq!(
        modified(&before),
        modified(
            &world
                .etcd
                .etcdctl(&["get", "--prefix", "/servers/", "-w", "json"])
        )
    );
    assert!(here.process.is_running());
}

#[test]
fn a_reset_without_a_terminal_needs_the_yes_flag() {
    let world = World::new();
    let server = world.server();
    assert!(
        world
            .cli_with(&["reset"], &[], b"y\n")
            .failed(2)
            .contains("--yes")
    );
    assert_eq!(world.stored("/reset"), "");
    assert_eq!(
        world.keys("/servers/"),
        [format!("/servers/{}", server.uuid)]
    );
}

#[test]
fn two_simultaneous_resets_lose_no_server() {
    let world = World::new();
    let servers = [world.server(), world.server()];
    thread::scope(|scope| {
        let resets = [(); 2].map(|()| scope.spawn(|| world.cli(&["reset", "--yes"]).done()));
        for reset in resets {
            reset.join().expect("a reset that is done");
        }
    });
    for server in &servers {
        world.await_configured("", &server.uuid);
    }
}
