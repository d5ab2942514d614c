//! `palm-cli stats`.

use super::world::{SOON, World};
use palm_tests::{Process, Terminal, binary};
use std::{
    io::Write as _,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// A job that goes on until this is dropped.
struct Load(Child);

impl Load {
    fn start(world: &World) -> Self {
        let mut command = Command::new(binary("palm-cli"));
        command.args(["job", "text.shout", "--window", "8"]);
        command.env("PALM_ETCD", world.etcd.endpoint());
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().expect("palm-cli starts");
        let mut stdin = child.stdin.take().expect("a piped stdin");
        thread::spawn(move || {
            while stdin.write_all(b"hello\n").is_ok() {
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self(child)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_figures_of_each_server_are_shown() {
    let world = World::new();
    let (text, printf) = (world.server_of("text", ""), world.server());
    let _load = Load::start(&world);
    let row = |said: &str, server: &str| {
        let line = said.lines().find(|line| line.starts_with(server));
        let cells = line.unwrap_or_else(|| panic!("{server}: {said}"));
        let cells: Vec<_> = cells.split_whitespace().map(str::to_owned).collect();
        assert_eq!(cells.len(), 10, "{said}");
        cells
    };
    palm_tests::eventually("the job runs", SOON, || {
        let said = world.cli(&["stats", "text"]).done();
        (row(&said, "text ")[8] != "0").then_some(())
    });
    let said = world.cli(&["stats"]).done();
    assert!(
        said.starts_with("SERVER  ID        ") && said.contains("\n2 servers: "),
        "{said}"
    );
    let (busy, idle) = (row(&said, "text "), row(&said, "printf "));
    assert_eq!((&*busy[1], &*idle[1]), (&text.uuid[..8], &printf.uuid[..8]));
    assert!(
        busy[2].parse::<f64>().is_ok_and(|rate| rate > 0.0),
        "{said}"
    );
    assert!(busy[4].ends_with('s') && busy[5].ends_with('s'), "{said}");
    assert_eq!(idle[2..], ["0", "0", "-", "-", "0", "0", "0", "0"]);
    let json = world.cli(&["stats", "--json", &text.uuid[..8]]).done();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json[0]["uuid"], *text.uuid);
    assert!(json[0]["requests"].as_u64() > Some(0), "{json}");
    assert_eq!(json.as_array().map(Vec::len), Some(1));
    let words = world.cli(&["stats", "txet"]).failed(1);
    assert!(words.contains("did you mean text?"), "{words}");
}

#[test]
fn a_live_screen_has_sparklines_at_80_and_200_columns() {
    let world = World::new();
    let text = world.server_of("text", "");
    let _load = Load::start(&world);
    for columns in [80, 200] {
        let etcd = world.etcd.endpoint();
        let args = ["--etcd", &etcd, "stats", "--watch"];
        let stats = Terminal::start((columns, 8), binary("palm-cli"), args, &[]);
        let row = stats.wait_for("a sparkline", SOON, |rows| {
            let row = rows.iter().find(|row| row.starts_with("text "))?;
            // The full block is the highest of the latest seconds.
            row.ends_with(['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'])
                .then_some(row.clone())
                .filter(|row| row.contains('█'))
        });
        assert!(row.contains(&text.uuid[..8]), "{row}");
        let rows = stats.rows();
        assert!(
            rows[0].contains(" UTC  ") && rows[1].starts_with("SERVER  ID "),
            "{rows:#?}"
        );
        assert!(rows[3].starts_with("1 server: "), "{rows:#?}");
        stats.type_keys("q");
        assert!(stats.wait(SOON).success());
        assert!(!stats.is_alternate() && stats.has_cursor());
    }
}

#[test]
fn a_server_that_does_not_answer_is_shown() {
    let world = World::new();
    // With a lease that outlasts the test on a slow machine.
    let text = Process::start(
        palm_tests::example("text"),
        ["run", "--etcd", &world.etcd.endpoint(), "--ttl", "60s"],
    );
    let [uuid, _] = crate::common::await_joined(&text);
    world.await_configured("", &uuid);
    text.freeze();
    let said = world.cli(&["stats"]).done();
    assert!(
        said.contains("; 1 without an answer") && said.contains(&uuid[..8]),
        "{said}"
    );
    let json = world.cli(&["stats", "--json"]).done();
    assert!(json.contains("\"failed\":"), "{json}");
    text.thaw();
}
