//! `palm-cli metrics`, and the functions in `palm-cli stats`.

use super::world::World;
use crate::metrics::exposition::Exposition;

#[test]
fn the_metrics_of_all_servers_are_one_valid_text() {
    let world = World::new();
    let (one, two) = (world.server(), world.server());
    let text = world.server_of("text", "");
    let ghost = "0b7c4f5e-7f64-4d0c-9c3b-5d6f1f0e8a11";
    world.put_record(ghost, "");
    let target = format!("{}.printf", two.uuid);
    for _ in 0..3 {
        world.cli(&["call", &target, "hello"]).done();
    }
    let outcome = world.cli(&["metrics"]);
    assert!(outcome.stderr.contains(ghost), "{}", outcome.stderr);
    let found = Exposition::read(&outcome.text(0));
    let requests = |uuid: &str, server: &str| {
        let labels = [("uuid", uuid), ("server", server)];
        format!("{}", found.sum("palm_function_requests_total", &labels))
    };
    let counts = [
        requests(&one.uuid, "printf"),
        requests(&two.uuid, "printf"),
        requests(&text.uuid, "text"),
    ];
    assert_eq!(counts, ["0", "3", "0"]);
    let leading = found.sum("palm_peer_leading", &[]);
    assert!((leading - 1.0).abs() < 0.5, "one of them leads");
    let answered = |uuid| found.sum("palm_server_answered", &[("uuid", uuid)]);
    assert!(answered(&one.uuid) > 0.5 && answered(ghost) < 0.5);

    let of_text = Exposition::read(&world.cli(&["metrics", "text"]).done());
    assert!(
        of_text
            .samples
            .iter()
            .all(|one| one.labels["server"] == "text")
    );
    assert!(
        world
            .cli(&["metrics", "txet"])
            .failed(1)
            .contains("did you mean text?")
    );
}

#[test]
fn stats_of_a_server_show_its_functions() {
    let world = World::new();
    let _text = world.server_of("text", "");
    world.cli(&["call", "text.shout", "hello"]).done();
    world
        .cli_with(&["call", "text.shout", "-"], &[], b"\xff")
        .failed(1);
    let said = world.cli(&["stats", "text"]).done();
    let (servers, functions) = said.split_once("\n\n").expect("two tables");
    assert!(servers.contains("1 server: "), "{said}");
    let lines: Vec<_> = functions.lines().collect();
    assert!(lines[0].starts_with("FUNCTION  REQ/S  ERR/S "), "{said}");
    let row = |name: &str| {
        lines
            .iter()
            .find(|line| line.starts_with(name))
            .expect(name)
    };
    assert!(row("shout").contains(" ago: failed: "), "{said}");
    assert!(row("count").ends_with("  -"), "{said}");
    assert!(!world.cli(&["stats"]).done().contains("FUNCTION"));
}
