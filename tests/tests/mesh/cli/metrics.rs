//! `palm-cli metrics`, and the functions in `palm-cli stats`.

use super::world::{SOON, World};
use crate::metrics::exposition::Exposition;
use palm_tests::{Terminal, binary};

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

#[test]
fn the_functions_of_a_server_fit_terminals_of_80_and_200_columns() {
    let world = World::new();
    let _text = world.server_of("text", "");
    let wrong = [&b"\xff"[..], &b"x".repeat(500)].concat();
    world
        .cli_with(&["call", "text.shout", "-"], &[], &wrong)
        .failed(1);
    for columns in [80, 200] {
        let etcd = world.etcd.endpoint();
        for watch in [false, true] {
            let mut args = vec!["--etcd", &etcd, "stats", "text"];
            args.extend(watch.then_some("--watch"));
            let stats = Terminal::start((columns, 12), binary("palm-cli"), &args, &[]);
            let rows = stats.wait_for("the functions", SOON, |rows| {
                let shown = rows.iter().any(|row| row.starts_with("shout "));
                shown.then(|| rows.to_vec())
            });
            let row = rows.iter().find(|row| row.starts_with("shout ")).unwrap();
            assert!(row.contains(" ago: failed: "), "{rows:#?}");
            // A line that wrapped would begin another row.
            let at = rows
                .iter()
                .position(|row| row.starts_with("FUNCTION"))
                .unwrap();
            assert!(
                rows[at + 1].starts_with("count ") && rows[at + 2] == *row,
                "{rows:#?}"
            );
            if watch {
                stats.type_keys("q");
            }
            assert!(stats.wait(SOON).success());
        }
    }
}
