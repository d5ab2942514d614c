//! `palm-cli status`.

use super::world::{SOON, World, record};
use palm_tests::{Process, binary};
use serde_json::Value;

const ABCD_1: &str = "abcd1111-0f5c-4278-bcc9-fa8caefadbb4";
const ABCD_2: &str = "abcd2222-0f5c-4278-bcc9-fa8caefadbb4";

#[test]
fn an_empty_mesh_says_so() {
    let world = World::new();
    assert_eq!(world.cli(&["status"]).done(), "No servers in the mesh\n");
    assert_eq!(world.cli(&["status", "--json"]).done(), "[]\n");
    assert!(
        world
            .cli(&["status", ABCD_1])
            .failed(1)
            .contains("the mesh has no servers")
    );
}

#[test]
fn the_table_shows_each_server_and_the_leader() {
    let world = World::new();
    let (first, second) = (world.server(), world.server());
    let text = world.cli(&["status"]).done();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].starts_with("UUID "), "{text}");
    for (server, state) in [(&first, "leader"), (&second, "configured")] {
        let line = lines
            .iter()
            .find(|line| line.starts_with(&server.uuid))
            .expect("a line of its own");
        let cells: Vec<_> = line.split_whitespace().collect();
        assert_eq!(cells.len(), 8, "{line}");
        assert_eq!(cells[1..3], ["printf", "registered"]);
        assert!(cells[3].starts_with("tcp://127.0.0.1:"), "{line}");
        assert_eq!(cells[4], server.process.pid().to_string());
        assert!(cells[5].ends_with('s'), "{line}");
        assert_eq!(
            cells[6..],
            [state, "printf,_ping,_log_query,get,set,append,delete"]
        );
    }
    assert_eq!(
        lines[3],
        format!(
            "2 servers of 1 name: 2 configured, 0 waiting; {} leads",
            first.uuid
        )
    );
}

#[test]
fn foreign_election_keys_do_not_hide_the_leader() {
    let world = World::new();
    for number in 0..20 {
        world.put(&format!("/election/junk{number}"), "junk");
    }
    let server = world.server();
    let text = world.cli(&["status"]).done();
    assert!(
        text.ends_with(&format!("1 configured, 0 waiting; {} leads\n", server.uuid)),
        "{text}"
    );
}

#[test]
fn meshes_with_different_prefixes_do_not_see_each_other() {
    let world = World::new();
    let server = world.server_in("/staging");
    assert_eq!(world.cli(&["status"]).done(), "No servers in the mesh\n");
    for args in [
        &["--prefix", "/staging", "status"],
        &["status", "--prefix", "/staging"],
    ] {
        assert!(world.cli(args).done().contains(&server.uuid), "{args:?}");
    }
    assert!(
        world
            .cli_with(&["status"], &[("PALM_PREFIX", "/staging")], b"")
            .done()
            .contains(&server.uuid)
    );
}

#[test]
fn a_record_is_printed_as_it_is_stored() {
    let world = World::new();
    let server = world.server();
    let stored = world.stored(&format!("/servers/{}", server.uuid));
    assert!(
        stored.starts_with(r#"{"host": "127.0.0.1", "pid": "#),
        "{stored}"
    );
    for wanted in [&server.uuid, &server.uuid[..8], &server.uuid.to_uppercase()] {
        assert_eq!(world.cli(&["status", wanted]).done(), format!("{stored}\n"));
    }
    let odd = world.put_record(ABCD_1, "  ,\n \"weight\": [1,  2.50]");
    assert_eq!(world.cli(&["status", "abcd"]).done(), format!("{odd}\n"));
}

#[test]
fn json_holds_all_records_and_keeps_unknown_fields() {
    let world = World::new();
    let server = world.server();
    world.put_record(ABCD_1, r#", "weight": {"cpu": 2.50}"#);
    world.put("/servers/junk", "no \"json\"");
    let text = world.cli(&["status", "--json"]).done();
    assert!(
        text.contains(r#""weight": {"cpu": 2.50}}"#),
        "as stored: {text}"
    );
    let Value::Array(records) = serde_json::from_str(&text).expect("JSON") else {
        panic!("{text}")
    };
    let by = |name: &str, value: &str| {
        records
            .iter()
            .find(|record| record[name] == value)
            .unwrap_or_else(|| panic!("{name} {value}: {text}"))
    };
    assert_eq!(records.len(), 3);
    assert_eq!(by("uuid", &server.uuid)["pid"], server.process.pid());
    assert_eq!(by("uuid", ABCD_1)["weight"]["cpu"], 2.5);
    assert!(
        by("key", "/servers/junk")["broken"]
            .as_str()
            .is_some_and(|why| !why.is_empty())
    );
}

#[test]
fn an_ambiguous_name_lists_both_servers() {
    let world = World::new();
    world.put_record(ABCD_1, "");
    world.put_record(ABCD_2, "");
    for command in ["status", "rm"] {
        let words = world.cli(&[command, "abcd"]).failed(1);
        assert!(words.contains(ABCD_1) && words.contains(ABCD_2), "{words}");
        let words = world.cli(&[command, "1234-unknown"]).failed(1);
        assert!(words.contains(ABCD_1) && words.contains(ABCD_2), "{words}");
        world.cli(&[command, "abc"]).failed(2);
    }
    assert_eq!(world.keys("/servers/").len(), 2, "nothing was removed");
    assert_eq!(
        world.cli(&["status", "abcd2"]).done(),
        format!("{}\n", record(ABCD_2, ""))
    );
}

#[test]
fn a_name_selects_the_instances_of_a_server() {
    let world = World::new();
    let (text, printf) = (world.server_of("text", ""), world.server());
    let ghost = world.put_record(ABCD_1, "");
    let said = world.cli(&["status", "text"]).done();
    assert!(
        said.contains(&text.uuid) && said.lines().count() == 3,
        "{said}"
    );
    assert!(
        said.ends_with(&format!(
            "1 server of 1 name: 1 configured, 0 waiting; {} leads\n",
            text.uuid
        )),
        "{said}"
    );
    for (args, json) in [
        (["status", "--json", "ghost"], true),
        (["status", "--json", "abcd"], true),
        (["status", "--wide", "abcd"], false),
    ] {
        let said = world.cli(&args).done();
        if json {
            assert_eq!(said, format!("[\n{ghost}\n]\n"), "{args:?}");
        }
        assert!(
            said.contains(ABCD_1) && !said.contains(&format!("\"{}\"", printf.uuid)),
            "{args:?}: {said}"
        );
    }
    // Nobody is removed by a name: there may be several instances.
    let words = world.cli(&["rm", "text"]).failed(1);
    assert!(
        words.contains("text is the name of 1 server: give the uuid")
            && words.contains(&text.uuid)
            && !words.contains(&printf.uuid),
        "{words}"
    );
    for args in [
        &["status", "txet"][..],
        &["rm", "txet"],
        &["status", "--json", "txet"],
    ] {
        let words = world.cli(args).failed(1);
        assert!(
            words.contains("no server txet (did you mean text?); there are"),
            "{words}"
        );
    }
    assert!(text.process.is_running());
}

#[test]
fn invalid_records_are_shown_beside_the_others() {
    let world = World::new();
    let server = world.server();
    world.put("/servers/no-json", "hello \u{1b}[2J there");
    world.put("/servers/missing-fields", r#"{"host": "127.0.0.1"}"#);
    world.put(&format!("/servers/{ABCD_1}"), &record(ABCD_2, ""));
    world.put(
        "/servers/long",
        &record(ABCD_1, &format!(r#", "x": "{}""#, "y".repeat(1024 * 1024))),
    );
    let text = world.cli(&["status"]).done();
    for (name, why) in [
        ("no-json", "expected"),
        ("missing-fields", "missing field"),
        (ABCD_1, "its uuid is"),
        ("long", "bytes long"),
    ] {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {text}"));
        assert!(line.contains(" broken ") && line.contains(why), "{line}");
    }
    assert!(
        text.contains(&format!("{} leads; 4 broken records\n", server.uuid)),
        "{text}"
    );
    let one = world.cli(&["status", "no-json"]);
    assert!(
        one.stderr.contains("no-json is broken: expected"),
        "{one:?}"
    );
    assert_eq!(one.text(0), "hello \u{1b}[2J there\n");
}

#[test]
fn a_watch_shows_each_change_and_survives_an_etcd_outage() {
    let world = World::new();
    let watch = Process::builder(binary("palm-cli"))
        .args(["--etcd", &world.etcd.endpoint(), "status", "--watch"])
        .start();
    watch.wait_for_line(|line| line == "No servers in the mesh", SOON);
    let server = world.server();
    let leads = format!(
        "1 server of 1 name: 1 configured, 0 waiting; {} leads",
        server.uuid
    );
    watch.wait_for_line(|line| line == leads, SOON);

    let mark = watch.mark();
    world.etcd.stop();
    watch.wait_for_line_after(mark, |line| line.contains("may be out of date"), SOON);
    world.etcd.restart();
    watch.wait_for_line_after(mark, |line| line == leads, SOON);

    let mark = watch.mark();
    world.cli(&["rm", &server.uuid]).done();
    watch.wait_for_line_after(mark, |line| line == "No servers in the mesh", SOON);
    assert!(watch.is_running());
}
