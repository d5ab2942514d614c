use super::*;

const NOW: &str = "2016-02-16T12:00:00";

fn entry(uuid: &str, server: &str, state: ServerStatus, functions: &str) -> ServerEntry {
    at("127.0.0.1", uuid, server, state, functions)
}

fn at(host: &str, uuid: &str, server: &str, state: ServerStatus, functions: &str) -> ServerEntry {
    let configured = state != ServerStatus::Waiting;
    let stored = format!(
        r#"{{"host": "{host}", "pid": 4749, "when": "2016-02-16T11:28:59.088608", "leader": null,
        "server": "{server}", "ports": [5555], "kind": "registered", "functions": {functions},
        "uuid": "{uuid}", "configured": {configured}}}"#
    );
    ServerEntry::new(format!("/servers/{uuid}"), stored, state)
}

fn broken(name: &str, stored: &str) -> ServerEntry {
    ServerEntry::new(format!("/servers/{name}"), stored, ServerStatus::Broken)
}

/// The lines of the table, then its summary.
fn drawn(entries: &[ServerEntry], width: Option<usize>, wide: bool) -> Vec<String> {
    let shown: Vec<_> = entries.iter().collect();
    let now = NOW.parse().expect("a time");
    let table = Table::new(&shown, entries, now, Room { width, wide });
    let lines = table.lines();
    let lines = lines.iter().map(|line| line.text(str::to_owned));
    lines.chain([table.summary()]).collect()
}

fn lines(entries: &[ServerEntry], width: Option<usize>) -> Vec<String> {
    let mut lines = drawn(entries, width, false);
    lines.pop();
    lines
}

const ONE: &str = "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4";
const TWO: &str = "f5cd88f7-0f5c-4278-bcc9-fa8caefadbb4";

fn some() -> [ServerEntry; 3] {
    [
        entry(
            ONE,
            "printf",
            ServerStatus::Leader,
            r#"["printf", "_ping", "get"]"#,
        ),
        entry(TWO, "longer-name", ServerStatus::Waiting, r#"["f"]"#),
        broken("junk", "no json"),
    ]
}

#[test]
fn every_column_starts_at_the_same_place_in_every_line() {
    assert_eq!(
        lines(&some(), None),
        [
            "UUID                                  SERVER       KIND        ENDPOINT              PID   AGE     STATE    FUNCTIONS",
            "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4  printf       registered  tcp://127.0.0.1:5555  4749  31m00s  leader   printf,_ping,get",
            "f5cd88f7-0f5c-4278-bcc9-fa8caefadbb4  longer-name  registered  tcp://127.0.0.1:5555  4749  31m00s  waiting  f",
            "junk                                  -            -           -                     -     -       broken   expected ident at line 1 column 2",
        ]
    );
}

#[test]
fn a_terminal_of_80_columns_has_what_matters() {
    assert_eq!(
        drawn(&some(), Some(80), false),
        [
            "SERVER       ID        ENDPOINT        AGE     STATE    FUNCTIONS",
            "printf       e5cd88f7  127.0.0.1:5555  31m00s  leader   printf",
            "longer-name  f5cd88f7  127.0.0.1:5555  31m00s  waiting  f",
            "-            junk      -               -       broken   expected ident at line …",
            "2 servers of 2 names: 1 configured, 1 waiting; printf e5cd88f7 leads; 1 broken …",
        ]
    );
    // With room for it, the rest is shown, and with enough of it the built-in functions, too.
    let [one, two, _] = some();
    let both = [one, two];
    let long = lines(&both, Some(115));
    assert_eq!(
        long[1],
        "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4  printf       registered  127.0.0.1:5555  4749  31m00s  leader   printf"
    );
    assert_eq!(lines(&both, Some(200)), lines(&both, None));
}

/// A server with a version, a zone and tags, which may be not ready.
fn labelled(uuid: &str, zone: &str, state: ServerStatus, ready: bool) -> ServerEntry {
    let mut entry = entry(uuid, "printf", state, r#"["printf", "format"]"#);
    let extra = format!(
        r#", "version": "1.4.2", "zone": "{zone}", "tags": ["gpu", "canary"], "ready": {ready}}}"#
    );
    let mut stored = String::from_utf8(entry.stored).expect("text");
    stored.pop();
    entry = ServerEntry::new(entry.key, stored + &extra, state);
    assert!(entry.record.is_ok(), "{entry:?}");
    entry
}

#[test]
fn versions_zones_and_readiness_are_shown_where_there_is_room() {
    let entries = [
        labelled(ONE, "eu-1", ServerStatus::Leader, false),
        labelled(TWO, "eu-2", ServerStatus::NotReady, false),
    ];
    assert_eq!(
        drawn(&entries, Some(80), false),
        [
            "SERVER  ID        ENDPOINT        ZONE  AGE     STATE              FUNCTIONS",
            "printf  e5cd88f7  127.0.0.1:5555  eu-1  31m00s  leader, not ready  printf, form…",
            "printf  f5cd88f7  127.0.0.1:5555  eu-2  31m00s  not ready          printf, form…",
            "2 servers of 1 name: 2 configured, 0 waiting, 2 not ready; printf e5cd88f7 leads",
        ]
    );
    let middle = lines(&entries, Some(100));
    assert!(middle[0].starts_with("SERVER  VERSION  ID"), "{middle:#?}");
    let wide = lines(&entries, Some(200));
    assert_eq!(
        wide[1],
        "e5cd88f7-0f5c-4278-bcc9-fa8caefadbb4  printf  1.4.2    registered  tcp://127.0.0.1:5555  eu-1  gpu,canary  4749  31m00s  leader, not ready  printf,format"
    );
    let narrow = lines(&entries, Some(70));
    assert!(!narrow[0].contains("ZONE"), "{narrow:#?}");
    for width in 1..=200 {
        for line in drawn(&entries, Some(width), false) {
            assert!(columns(&line) <= width, "{width}: {line}");
        }
    }
    // One without labels beside them.
    let [one, _] = entries;
    let mixed = lines(
        &[one, entry(TWO, "a", ServerStatus::Configured, "[]")],
        None,
    );
    assert!(
        mixed[2].contains("  a       -        registered"),
        "{mixed:#?}"
    );
}

#[test]
fn no_line_is_wider_than_its_terminal() {
    let many = format!("[{}]", vec![r#""function""#; 100].join(","));
    let entries = [
        entry(ONE, &"s".repeat(128), ServerStatus::Configured, &many),
        at(
            "2001:db8:1111:2222:3333:4444:5555:6666",
            TWO,
            "text",
            ServerStatus::Leader,
            "[]",
        ),
        broken(&"key".repeat(50), "no json"),
        broken(
            "日本語のとても長い名前のサーバーの鍵です日本語のとても長い名前の鍵",
            "{}",
        ),
    ];
    for width in 1..=250 {
        for line in drawn(&entries, Some(width), false) {
            assert!(columns(&line) <= width, "{width}: {line}");
        }
    }
    // The port of a long endpoint is seen, and what tells the servers apart.
    let narrow = lines(&entries, Some(80));
    assert!(
        narrow[2].contains("6666]:5555") && narrow[2].contains("f5cd88f7"),
        "{narrow:#?}"
    );
    assert!(narrow[1].ends_with('…'), "{narrow:#?}");
    // Unless everything is asked for: then lines wrap.
    assert_eq!(
        drawn(&entries, Some(80), true),
        drawn(&entries, None, false)
    );
}

#[test]
fn abbreviated_uuids_tell_the_servers_apart() {
    let twin = "e5cd88f7-0f5c-4278-bcc9-000000000000";
    let entries = [
        entry(ONE, "a", ServerStatus::Leader, "[]"),
        entry(twin, "b", ServerStatus::Configured, "[]"),
    ];
    let lines = lines(&entries, Some(80));
    assert!(
        lines[1].contains(" e5cd88f7-0f5c-4278-bcc9-f  "),
        "{lines:#?}"
    );
    assert!(
        lines[2].contains(" e5cd88f7-0f5c-4278-bcc9-0  "),
        "{lines:#?}"
    );
}

#[test]
fn paint_does_not_move_what_follows() {
    let entries = some();
    let shown: Vec<_> = entries.iter().collect();
    let room = Room {
        width: None,
        wide: false,
    };
    let lines = Table::new(&shown, &entries, NOW.parse().expect("a time"), room).lines();
    let painted = lines[1].text(|message| format!("<{message}>"));
    assert!(
        painted.ends_with("31m00s  <leader>   printf,_ping,get"),
        "{painted}"
    );
}

#[test]
fn control_characters_in_records_are_escaped() {
    let nasty = broken(
        "\x1b[2Jx",
        &format!(r#"{{"host": "{}"#, "y".repeat(100_000)),
    );
    let evil = r#"{"pid": "\u001b]0;title\u0007\n", "host": "h"}"#;
    for entry in [nasty, broken("a", evil)] {
        let line = lines(&[entry], None).remove(1);
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.chars().count() < 400, "{line}");
    }
}

#[test]
fn ages_are_shown_in_their_two_largest_units() {
    for (seconds, text) in [
        (0, "0s"),
        (59, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (7200, "2h00m"),
        (86_399, "23h59m"),
        (97_200, "1d03h"),
        (40_000_000, "462d23h"),
    ] {
        assert_eq!(age(Duration::from_secs(seconds)), text);
    }
}

#[test]
fn the_summary_counts_and_says_who_leads() {
    let summary = |entries: &[ServerEntry]| drawn(entries, None, false).pop().expect("a line");
    assert_eq!(summary(&[]), "No servers in the mesh");
    assert_eq!(
        summary(&[broken("a", "")]),
        "No servers in the mesh; 1 broken record"
    );
    let expected =
        format!("2 servers of 2 names: 1 configured, 1 waiting; {ONE} leads; 1 broken record");
    assert_eq!(summary(&some()), expected);
    let alone = [entry(ONE, "printf", ServerStatus::Configured, "[]")];
    assert_eq!(
        summary(&alone),
        "1 server of 1 name: 1 configured, 0 waiting; no leader"
    );
}

#[test]
fn a_part_of_the_servers_keeps_the_leader_of_all() {
    let entries = some();
    let room = Room {
        width: None,
        wide: false,
    };
    let table = Table::new(&[&entries[1]], &entries, NOW.parse().expect("a time"), room).summary();
    assert_eq!(
        table,
        format!("1 server of 1 name: 0 configured, 1 waiting; {ONE} leads")
    );
}
