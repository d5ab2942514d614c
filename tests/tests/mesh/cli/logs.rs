//! `palm-cli logs`.

use super::world::{SOON, World};
use palm_tests::{Process, binary};

fn follow(world: &World, args: &[&str]) -> Process {
    Process::builder(binary("palm-cli"))
        .args(["--etcd", &world.etcd.endpoint(), "logs", "--follow"])
        .args(args)
        .start()
}

#[test]
fn the_leaders_log_is_followed_across_failover() {
    let world = World::new();
    let first = world.server();
    let second = world.server();
    // Several readers, who take nothing from each other.
    let readers = [follow(&world, &["registry"]), follow(&world, &["registry"])];
    let configured = |uuid: &str, by: &str| {
        let (uuid, by) = (uuid.to_owned(), by[..8].to_owned());
        move |line: &str| {
            line.ends_with(&format!(
                " printf/{by} INFO:registry:Server {uuid} configured"
            ))
        }
    };
    for reader in &readers {
        for server in [&first, &second] {
            reader.wait_for_line(configured(&server.uuid, &first.uuid), SOON);
        }
    }
    first.process.kill();
    let deleted = format!("Deleted server {}", first.uuid);
    for reader in &readers {
        let (line, _) = reader.wait_for_line(|line| line.contains(&deleted), SOON);
        assert!(
            line.contains(&format!(" printf/{} ", &second.uuid[..8])),
            "{line}"
        );
    }
    // Once more, all that is kept, in the order of time.
    let said = world.cli(&["logs", "registry"]).done();
    let times: Vec<_> = said.lines().filter_map(|line| line.get(..23)).collect();
    assert!(times.is_sorted() && said.contains(&deleted), "{said}");
    assert!(
        said.lines().all(|line| line.contains(":registry:")),
        "{said}"
    );
}

#[test]
fn readers_with_a_cursor_take_no_lines_from_others() {
    let world = World::new();
    let mut builder = Process::builder(palm_tests::example("text"));
    // The leader asks only once in a while, so that it takes nothing meanwhile.
    builder = builder.args([
        "run",
        "--etcd",
        &world.etcd.endpoint(),
        "--probe-period",
        "60",
    ]);
    let text = builder.start();
    let [uuid, _] = crate::common::await_joined(&text);
    world.await_configured("", &uuid);
    let lines = || world.cli(&["logs", "text"]).done();
    let said = lines();
    let joined = format!(" text/{} INFO:", &uuid[..8]);
    assert!(
        said.contains(&joined) && said.contains("joined as"),
        "{said}"
    );
    assert_eq!(lines().lines().next(), said.lines().next());
    let last = world.cli(&["logs", &uuid[..8], "-n", "1"]).done();
    assert_eq!(last.lines().count(), 1, "{last}");
    // A reader without a cursor takes what it gets, as before, whatever others have read.
    let query = || world.cli(&["call", "text._log_query", "DEBUG"]).done();
    query();
    world
        .cli_with(&["call", "text.shout", "-"], &[], b"\xff")
        .failed(1);
    lines();
    assert_ne!(query(), "");
    assert_eq!(lines().lines().next(), said.lines().next());
    let words = world
        .cli(&["call", "text._log_query", r#"{"since":"x"}"#])
        .failed(1);
    assert!(words.contains("bad_message"), "{words}");
    let words = world.cli(&["logs", "txet"]).failed(1);
    assert!(words.contains("did you mean text?"), "{words}");
}
