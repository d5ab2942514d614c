use super::*;
use uuid::Uuid;

fn record(id: u128, server: &str) -> Record {
    let json = format!(
        r#"{{"host":"127.0.0.1","pid":1,"when":"2026-01-01T00:00:0{}.000001","leader":null,"server":"{server}",
        "ports":[{}],"kind":"registered","functions":["printf","_ping"],"uuid":"{}","configured":true}}"#,
        id % 10,
        5000 + id,
        Uuid::from_u128(id)
    );
    Record::from_json(json.as_bytes()).expect("a record")
}

#[test]
fn the_list_matches_pylms_format() {
    let lines: Vec<_> = list([&record(1, "printf")], LevelFilter::Info)
        .into_iter()
        .map(|line| line.text)
        .collect();
    assert_eq!(
        lines,
        [
            "***** List of servers *****".to_owned(),
            format!(
                "{}: Server printf of type registered, implements ['printf', '_ping']",
                Uuid::from_u128(1)
            ),
            "***************************".to_owned(),
        ]
    );
    let empty = list([], LevelFilter::Info);
    assert!(empty[0].critical && empty[0].text == "You have no server running" && empty.len() == 3);
}

#[test]
fn long_lists_are_logged_at_debug() {
    let many: Vec<_> = (0..21).map(|id| record(id, "printf")).collect();
    assert_eq!(list(&many, LevelFilter::Info), []);
    let lines = list(&many, LevelFilter::Debug);
    assert!(lines.len() == 23 && lines.iter().all(|line| line.level == Level::Debug));
}
