use super::*;

const NOW: &str = "2016-02-16T12:00:00";

fn entry(uuid: &str, server: &str, state: ServerStatus, functions: &str) -> ServerEntry {
    let configured = state != ServerStatus::Waiting;
    let stored = format!(
        r#"{{"host": "127.0.0.1", "pid": 4749, "when": "2016-02-16T11:28:59.088608", "leader": null,
        "server": "{server}", "ports": [5555], "kind": "registered", "functions": {functions},
        "uuid": "{uuid}", "configured": {configured}}}"#
    );
    ServerEntry::new(format!("/servers/{uuid}"), stored, state)
}

fn broken(name: &str, stored: &str) -> ServerEntry {
    ServerEntry::new(format!("/servers/{name}"), stored, ServerStatus::Broken)
}

fn lines(entries: &[ServerEntry], width: Option<usize>) -> Vec<String> {
    let rows = rows(entries, NOW.parse().expect("a time"));
    let widths = widths(&rows);
    rows.iter()
        .map(|row| row.text(&widths, width, str::to_owned))
        .collect()
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
fn only_the_last_column_is_cut_to_the_terminal() {
    let cut = lines(&some(), Some(130));
    assert!(
        cut.iter().all(|line| line.chars().count() <= 130),
        "{cut:#?}"
    );
    assert!(cut[1].ends_with("leader   printf,_ping,get"), "{}", cut[1]);
    assert!(cut[3].ends_with('…'), "{}", cut[3]);
    // On a terminal that is too narrow, lines wrap, and no other column is cut.
    let narrow = lines(&some(), Some(40));
    assert!(
        narrow[1].contains(ONE) && narrow[1].ends_with("printf,_pin…"),
        "{}",
        narrow[1]
    );
}

#[test]
fn paint_does_not_move_what_follows() {
    let rows = rows(&some(), NOW.parse().expect("a time"));
    let widths = widths(&rows);
    let painted = rows[1].text(&widths, None, |message| format!("<{message}>"));
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
